"""The policies of augmentation, from their notation to pixels. Import from the modules; this file imports nothing."""
