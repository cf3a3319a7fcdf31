//! The HTTP edge: listeners, TLS, the upgrade to WebSocket, health.
