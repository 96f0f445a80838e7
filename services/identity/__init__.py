"""The patient index: identifiers with their assigning authority, matching, merge."""
