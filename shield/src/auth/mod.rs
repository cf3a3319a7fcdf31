//! User tokens: from a JWT to a verified identity.
