"""What a run reports: `summary.json`, tables, pages and pictures.

A new number goes into `summary.summarise`, its place on the page into `templates/report.html`.
"""
