"""Reports of a run: `summary.json`, tables, pages and pictures.

Put a new number into `summary.summarise`, and its place on the page into `templates/report.html`.
Private: `figures`, `gallery`, `facts`.
"""
