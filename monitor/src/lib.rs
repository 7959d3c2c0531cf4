//! Decision log to Parquet, drift statistics and alerts.
