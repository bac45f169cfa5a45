"""Pictures in: decoding, folders, data sets, splits, downloads, augmentation, batches. Begin reading in `datasets`."""
