"""Find out what a model is: from the catalog, a folder, or the hub. Reads disks and, where asked, the hub; writes only
the cache of headers that lies beside Hugging Face's own."""
