"""DICOM data sets and associations: worklist, MPPS, storage and commitment SCPs, and the SR writer."""
