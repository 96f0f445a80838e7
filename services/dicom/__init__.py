"""DICOM data sets and associations: worklist, MPPS, storage and commitment SCPs, the SR writer."""
