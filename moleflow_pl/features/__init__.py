"""From images to patch features: frozen timm backbones, position codes, exact statistics.

Use any timm model by its name; for another extractor, subclass `PatchExtractor`. Private:
`backbone`, which builds the timm model and finds its weights.
"""
