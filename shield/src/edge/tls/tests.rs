//! Looks at files that are written, renamed and flipped as those who renew
//! certificates do.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

/// A folder with a certificate's files, as a Shield would be started with.
struct Ground {
    folder: tempfile::TempDir,
    files: Tls,
}

/// A certificate and its key as PEM.
fn pair() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn write_secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

impl Ground {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = Tls {
            certificate_file: folder.path().join("cert.pem"),
            key_file: folder.path().join("key.pem"),
        };
        let ground = Self { folder, files };
        ground.put(&pair());
        ground
    }

    fn put(&self, (certificate, key): &(String, String)) {
        fs::write(&self.files.certificate_file, certificate).unwrap();
        write_secret(&self.files.key_file, key);
    }
}

fn in_force(certificate: &Certificate) -> Vec<u8> {
    certificate.current.load().cert[0].to_vec()
}

fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .unwrap()
        .to_vec()
}

#[test]
fn a_pair_that_fits_is_taken_whole_and_only_once() {
    let ground = Ground::new();
    let certificate = Certificate::load(&ground.files).unwrap();
    assert!(matches!(certificate.look(false), Look::Same));
    let new = pair();
    ground.put(&new);
    assert!(matches!(certificate.look(false), Look::Swapped));
    assert_eq!(in_force(&certificate), der(&new.0));
    assert!(matches!(certificate.look(false), Look::Same));
    assert!(matches!(certificate.look(true), Look::Same));
    // Touched, and the same.
    ground.put(&new);
    assert!(matches!(certificate.look(false), Look::Same));
}

#[test]
fn what_does_not_fit_leaves_the_old_one_and_is_told_once() {
    let ground = Ground::new();
    let certificate = Certificate::load(&ground.files).unwrap();
    let old = in_force(&certificate);
    let new = pair();
    let half = &new.0[..new.0.len() / 2];
    let refused = |what: &str| {
        assert!(
            matches!(certificate.look(false), Look::Refused(_)),
            "{what}"
        );
        assert!(
            matches!(certificate.look(false), Look::Same),
            "{what} again"
        );
        // Whoever asks is told again.
        assert!(
            matches!(certificate.look(true), Look::Refused(_)),
            "{what} asked"
        );
        assert_eq!(in_force(&certificate), old, "{what}");
    };
    fs::write(&ground.files.certificate_file, half).unwrap();
    refused("half a certificate");
    fs::write(&ground.files.certificate_file, "").unwrap();
    refused("nothing");
    fs::write(&ground.files.certificate_file, &new.0).unwrap();
    refused("the key of another");
    fs::remove_file(&ground.files.key_file).unwrap();
    refused("no key");
    fs::write(&ground.files.key_file, &new.1).unwrap();
    fs::set_permissions(&ground.files.key_file, fs::Permissions::from_mode(0o644)).unwrap();
    refused("a key that others may read");
    write_secret(&ground.files.key_file, &new.1);
    assert!(matches!(certificate.look(false), Look::Swapped));
    assert_eq!(in_force(&certificate), der(&new.0));
}

#[test]
fn links_are_followed_as_kubernetes_and_certbot_flip_them() {
    // Kubernetes: two links through one folder, which is itself a link that is renamed over.
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let version = |name: &str| {
        let new = pair();
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join("tls.crt"), &new.0).unwrap();
        write_secret(&at(name).join("tls.key"), &new.1);
        new.0
    };
    let flip = |name: &str| {
        symlink(name, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
    };
    version("..1");
    flip("..1");
    symlink("..data/tls.crt", at("tls.crt")).unwrap();
    symlink("..data/tls.key", at("tls.key")).unwrap();
    let files = Tls {
        certificate_file: at("tls.crt"),
        key_file: at("tls.key"),
    };
    let certificate = Certificate::load(&files).unwrap();
    let second = version("..2");
    assert!(matches!(certificate.look(false), Look::Same));
    flip("..2");
    assert!(matches!(certificate.look(false), Look::Swapped));
    assert_eq!(in_force(&certificate), der(&second));

    // Certbot: each file is a link of its own, flipped one after the other.
    let ground = Ground::new();
    let certificate = Certificate::load(&ground.files).unwrap();
    let new = pair();
    let archive = ground.folder.path().join("archive");
    fs::create_dir(&archive).unwrap();
    fs::write(archive.join("cert2.pem"), &new.0).unwrap();
    write_secret(&archive.join("key2.pem"), &new.1);
    let link = |file: &Path, to: &str| {
        fs::remove_file(file).unwrap();
        symlink(Path::new("archive").join(to), file).unwrap();
    };
    link(&ground.files.certificate_file, "cert2.pem");
    assert!(matches!(certificate.look(false), Look::Refused(_)));
    link(&ground.files.key_file, "key2.pem");
    assert!(matches!(certificate.look(false), Look::Swapped));
    assert_eq!(in_force(&certificate), der(&new.0));
}

#[test]
fn a_file_renamed_over_another_of_its_size_and_time_is_seen() {
    let ground = Ground::new();
    let certificate = Certificate::load(&ground.files).unwrap();
    let (new, key) = pair();
    let before = fs::metadata(&ground.files.certificate_file).unwrap();
    for (text, file) in [
        (new.clone(), &ground.files.certificate_file),
        (key, &ground.files.key_file),
    ] {
        let beside = ground.folder.path().join("beside");
        write_secret(&beside, &text);
        let times = fs::FileTimes::new().set_modified(before.modified().unwrap());
        fs::File::options()
            .write(true)
            .open(&beside)
            .unwrap()
            .set_times(times)
            .unwrap();
        fs::rename(&beside, file).unwrap();
    }
    assert!(matches!(certificate.look(false), Look::Swapped));
    assert_eq!(in_force(&certificate), der(&new));
}
