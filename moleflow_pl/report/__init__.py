"""What a run reports: `summary.json`, tables, pages and pictures.

A new number goes into `summary`, its place on the page into `templates/report.html`.
"""
