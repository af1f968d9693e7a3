"""The project folder: wishes, rendered sets, generations, secrets, the lock. Touches the disk."""
