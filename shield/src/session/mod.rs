//! One client session: its socket, its queue, its protocol.
