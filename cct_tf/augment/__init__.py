"""Image operations and augmentation. Import what you need from the modules; this file imports nothing."""
