//! Keys stay private, and stay the same.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Every file and folder below, with its mode.
fn walk(path: &Path, found: &mut Vec<(PathBuf, u32)>) {
    found.push((path.to_owned(), mode(path)));
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            walk(&entry.unwrap().path(), found);
        }
    }
}

#[test]
fn private_and_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("spine");
    let pool = NodeId::parse("main").unwrap();
    let shield = NodeId::parse("shield-1").unwrap();
    let state = StateFolder::create(&root).unwrap();
    let fleet = state.ensure_fleet_key(&pool).unwrap();
    state.new_fleet_key(&pool).unwrap();
    let creds = state.creds(Role::Shield, &shield).unwrap();
    let text = fs::read_to_string(&creds).unwrap();
    let mut found = Vec::new();
    walk(&root, &mut found);
    assert!(found.len() > 15);
    for (path, mode) in found {
        let wanted = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, wanted, "{}", path.display());
    }

    let again = StateFolder::create(&root).unwrap();
    assert_eq!(
        again.operator_jwt().unwrap().len(),
        state.operator_jwt().unwrap().len()
    );
    for account in FixedAccount::ALL {
        assert_eq!(
            again.account(account).unwrap(),
            state.account(account).unwrap()
        );
    }
    assert_eq!(
        again.ensure_fleet_key(&pool).unwrap().public(),
        fleet.public()
    );
    let creds = again.creds(Role::Shield, &shield).unwrap();
    assert_eq!(fs::read_to_string(creds).unwrap(), text);
    // The operator signs accounts with another key than its identity.
    let identity = fs::read_to_string(root.join("operator/identity.nk")).unwrap();
    let identity = KeyPair::from_seed(&identity).unwrap().public_key();
    assert_ne!(identity, again.operator_signing_key().unwrap().public_key());
}

#[test]
fn what_is_open_to_others_or_not_a_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("spine");
    assert!(matches!(
        StateFolder::open(&root),
        Err(StateError::Missing { .. })
    ));
    let state = StateFolder::create(&root).unwrap();
    let signing = root.join("operator/signing.nk");
    fs::set_permissions(&signing, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(
        state.operator_signing_key(),
        Err(StateError::Open { mode: 0o640, .. })
    ));
    fs::set_permissions(&signing, fs::Permissions::from_mode(0o600)).unwrap();
    state.operator_signing_key().unwrap();
    let account = KeyPair::new_account().seed().unwrap();
    for text in ["", "SOMETHING", account.as_str()] {
        fs::write(&signing, text).unwrap();
        assert!(matches!(
            state.operator_signing_key(),
            Err(StateError::Key { .. })
        ));
    }
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(matches!(
        StateFolder::open(&root),
        Err(StateError::Open { .. })
    ));
    let nowhere = NodeId::parse("nowhere").unwrap();
    assert!(matches!(
        state.fleet_key(&nowhere),
        Err(StateError::NoPool { .. })
    ));
}
