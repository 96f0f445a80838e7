"""What happens to a study, stage by stage; each flow reads as a paragraph about the study.

Flows take identifiers only and call tasks; they touch no database and no socket themselves.
"""
