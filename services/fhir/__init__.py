"""Models as FHIR resources and back."""
