//! The outbox worker: takes unfinished intents from the store, runs them, and writes what came of them.
