"""The HTTP application: health, reading list, API, and the mounted DICOMweb and FHIR services."""
