//! Sources, change decoding, micro-batches and dead letters.
