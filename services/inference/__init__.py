"""Triage models: registry, preprocessing and the onnxruntime session.

Everything here works on pixels and numbers; what a result means for a study is decided in
`services.workflow`.
"""
