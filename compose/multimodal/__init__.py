"""The multimodal worker: jobs over pictures, sound, video and PDF files (docs/how-to/multimodal.md)."""
