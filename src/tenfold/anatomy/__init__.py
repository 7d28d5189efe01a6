"""Is a generated brain MRI plausible? Volumes region by region, behind a gate of reliable segmentations."""
