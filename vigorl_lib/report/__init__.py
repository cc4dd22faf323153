"""Pictures and pages that a person looks at: annotated images, charts, and `report.html` of a run."""
