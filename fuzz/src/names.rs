//! Names out of text, and the subjects made of them.

use arqon_proto::names::{
    NodeId, PolicyName, RoomId, RoomPattern, SessionId, TenantId, UserId, parse_room_subject,
    room_subject,
};

/// What a NATS server does, written apart from `RoomPattern`.
fn covers(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) => return true,
            (Some(one), Some(token)) if one == "*" || one == token => {}
            _ => return false,
        }
    }
}

/// Three lines: a tenant, a room, a pattern or a second tenant. No accepted pair
/// leaves its tenant's prefix or holds a wildcard, and each name is spelled in
/// one way only.
///
/// # Panics
/// Where that does not hold.
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.splitn(3, '\n');
    let mut next = || lines.next().unwrap_or_default();
    let (first, second, third) = (next(), next(), next());
    spelled_once(text);
    spelled_once(first);
    spelled_once(second);
    if let Ok((tenant, room)) = parse_room_subject(second) {
        assert_eq!(room_subject(&tenant, &room), second);
    }
    let (Ok(tenant), Ok(room)) = (TenantId::parse(first), RoomId::parse(second)) else {
        return;
    };
    let subject = room_subject(&tenant, &room);
    assert_eq!(subject, format!("{first}.{second}"), "nothing is rewritten");
    assert!(subject.bytes().all(|byte| byte.is_ascii_graphic()));
    assert!(!subject.contains(['*', '>', '$', '{', '/']), "{subject}");
    assert!(subject.split('.').all(|token| !token.is_empty()));
    assert!(subject.len() <= 63 + 1 + 200, "{subject}");
    for kept in ["$SYS.>", "$JS.>", "_INBOX.>", "_arq.>"] {
        assert!(!covers(kept, &subject), "{subject} is in {kept}");
    }
    assert!(!covers(&format!("{tenant}._presence.>"), &subject));
    let back = parse_room_subject(&subject).expect("it is one");
    assert_eq!(back, (tenant.clone(), room.clone()));
    if let Ok(other) = TenantId::parse(third) {
        assert_eq!(covers(&format!("{other}.>"), &subject), other == tenant);
    }
    if let Ok(pattern) = RoomPattern::parse(third) {
        assert_eq!(pattern.as_str(), third);
        let reaches = covers(&format!("{tenant}.{pattern}"), &subject);
        assert_eq!(pattern.matches(&room), reaches, "{pattern} and {room}");
    }
}

/// Whatever is accepted as a name stands as it was written.
fn spelled_once(text: &str) {
    if let Ok(name) = TenantId::parse(text) {
        assert_eq!(name.as_str(), text);
        assert!(!["arqon", "sys", "control", "brain"].contains(&text));
    }
    if let Ok(name) = RoomId::parse(text) {
        assert_eq!(name.as_str(), text);
        assert!(!text.starts_with('_') && text.split('.').count() <= 4);
    }
    if let Ok(name) = UserId::parse(text) {
        assert_eq!(name.as_str(), text);
        assert!(!text.contains(char::is_control) && text.len() <= 128);
    }
    if let Ok(name) = NodeId::parse(text) {
        assert_eq!(name.as_str(), text);
        assert!(!text.contains(['.', '*', '>', ' ']));
    }
    if let Ok(name) = PolicyName::parse(text) {
        assert_eq!(name.as_str(), text);
        assert!(!text.contains(['.', '*', '>', ' ', '/']));
    }
    if let Ok(id) = SessionId::parse(text) {
        // Hexadecimal digits are taken in either case, and told in one.
        assert_eq!(id.to_string(), text.to_ascii_lowercase());
        assert_eq!(SessionId::from_bytes(id.as_bytes()).as_ref(), Ok(&id));
    }
}
