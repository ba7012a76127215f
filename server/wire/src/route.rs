//! The route protocol between servers.
