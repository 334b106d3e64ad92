"""From latents to anomaly scores: of patches, maps and images.

Add a patch score: subclass `patch_scores.PatchScore` and register it with
`@PATCH_SCORES.add("name")`; an image score is a function registered in `functional`.
"""
