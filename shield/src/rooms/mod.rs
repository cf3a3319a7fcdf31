//! Rooms of a tenant and their members on this Shield.
