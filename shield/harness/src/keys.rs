//! RSA key pairs of token issuers, made once per process: each takes a while.

use std::sync::OnceLock;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use data_encoding::BASE64URL_NOPAD;

/// Key pairs a process can have; a story needs a handful.
const KEYS: usize = 8;

/// An issuer's key pair.
#[derive(Debug)]
pub struct IssuerKey(RsaKeyPair);

/// Key pair number `index`, the same one each time.
///
/// # Panics
/// From 8 on.
pub fn issuer_key(index: usize) -> &'static IssuerKey {
    static MADE: [OnceLock<IssuerKey>; KEYS] = [const { OnceLock::new() }; KEYS];
    MADE[index].get_or_init(|| {
        IssuerKey(RsaKeyPair::generate(KeySize::Rsa2048).expect("an RSA key pair is made"))
    })
}

// === impl IssuerKey ===

impl IssuerKey {
    /// The public half as PEM (SubjectPublicKeyInfo).
    pub fn public_pem(&self) -> String {
        let der: PublicKeyX509Der<'_> = self.0.public_key().as_der().expect("a key has a DER form");
        pem::encode_config(
            &pem::Pem::new("PUBLIC KEY", der.as_ref()),
            pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
        )
    }

    /// The public half as a JWK of this `kid`.
    pub fn jwk(&self, kid: &str) -> serde_json::Value {
        let public = self.0.public_key();
        serde_json::json!({
            "kty": "RSA",
            "use": "sig",
            "alg": "RS256",
            "kid": kid,
            "n": BASE64URL_NOPAD.encode(public.modulus().big_endian_without_leading_zero()),
            "e": BASE64URL_NOPAD.encode(public.exponent().big_endian_without_leading_zero()),
        })
    }

    /// RS256.
    pub(crate) fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.0.public_modulus_len()];
        self.0
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                bytes,
                &mut signature,
            )
            .expect("a 2048-bit key signs");
        signature
    }
}
