"""Whether generated brain MRI is plausible: uniform processing, image metrics, anatomy region by region."""
