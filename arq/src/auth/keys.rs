//! The RSA key pair that signs development tokens.

use std::path::{Path, PathBuf};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey};

use crate::context::{Context, create_folder, write, write_private};
use crate::failure::{Doing, Failure, Result};
use crate::output::Output;

/// An RSA private key with its public half and its name.
pub(crate) struct DevelopmentKey {
    /// What signs.
    pub(crate) signing: EncodingKey,
    /// The public half, SubjectPublicKeyInfo as PEM.
    pub(crate) public_pem: String,
    /// The RFC 7638 thumbprint, used as `kid`.
    pub(crate) kid: String,
    jwk: Jwk,
}

impl DevelopmentKey {
    /// The file of the key that signs.
    pub(super) fn file(context: &Context) -> PathBuf {
        context.dev_folder().join("token-key.pem")
    }

    /// The file of the key before, while its tokens are still good.
    pub(super) fn old_file(context: &Context) -> PathBuf {
        context.dev_folder().join("token-key.old.pem")
    }

    /// The file of the key that a rotation is about to put in force.
    pub(super) fn next_file(context: &Context) -> PathBuf {
        context.dev_folder().join("token-key.next.pem")
    }

    /// Whether the context is one for development: it has a key.
    pub(crate) fn exists(context: &Context) -> bool {
        Self::file(context).exists()
    }

    /// The context's development key; made on first use.
    pub(crate) fn open(context: &Context, output: &Output) -> Result<Self> {
        let file = Self::file(context);
        if file.exists() {
            return Self::read(&file);
        }
        if let Some(name) = &context.name {
            return Err(Failure::new(format!(
                "the context `{name}` has neither a token nor a development key to sign one"
            ))
            .hint(format!(
                "--token JWT gives one, `arq context set {name} --token-file FILE` for good"
            )));
        }
        create_folder(&context.dev_folder())?;
        let key = generate(&file)?;
        key.write_public(context)?;
        output.note(format!("made the development key pair {}", file.display()));
        Ok(key)
    }

    /// Puts the public half beside the key, for whoever configures a tenant by hand.
    pub(super) fn write_public(&self, context: &Context) -> Result {
        let file = context.dev_folder().join("token-key.pub.pem");
        write(&file, self.public_pem.as_bytes())
    }

    /// Reads a private key from a PEM file (PKCS#8 or PKCS#1).
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read(file).doing(format!("cannot read {}", file.display()))?;
        let wrong = || {
            Failure::new(format!(
                "{} holds no RSA private key in PEM form",
                file.display()
            ))
            .hint(
                "a PKCS#8 `PRIVATE KEY` or PKCS#1 `RSA PRIVATE KEY` of 2048 bits or more is wanted",
            )
        };
        let parsed = pem::parse(&text).map_err(|_| wrong())?;
        let pair = match parsed.tag() {
            "RSA PRIVATE KEY" => KeyPair::from_der(parsed.contents()),
            _ => KeyPair::from_pkcs8(parsed.contents()),
        }
        .map_err(|_| wrong())?;
        let signing = EncodingKey::from_rsa_pem(&text).map_err(|_| wrong())?;
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(|_| wrong())?;
        let public_pem = pem::encode(&pem::Pem::new("PUBLIC KEY", public.as_ref()));
        let mut jwk = Jwk::from_encoding_key(&signing, Algorithm::RS256)?;
        let kid = jwk.thumbprint(ThumbprintHash::SHA256)?;
        jwk.common.key_id = Some(kid.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Self {
            signing,
            public_pem,
            kid,
            jwk,
        })
    }

    /// The public halves of all keys that tokens may be signed with, as a JWKS document.
    pub(crate) fn jwks(context: &Context, output: &Output) -> Result<JwkSet> {
        let mut keys = vec![Self::open(context, output)?.jwk];
        let old = Self::old_file(context);
        if old.exists() {
            keys.push(Self::read(&old)?.jwk);
        }
        Ok(JwkSet { keys })
    }

    /// The public half as what verifies.
    pub(crate) fn verifying(&self) -> Result<jsonwebtoken::DecodingKey> {
        Ok(jsonwebtoken::DecodingKey::from_jwk(&self.jwk)?)
    }
}

/// Makes a key pair and keeps it in a file.
pub(super) fn generate(file: &Path) -> Result<DevelopmentKey> {
    let pair = KeyPair::generate(KeySize::Rsa2048)
        .map_err(|_| Failure::new("cannot generate an RSA key pair"))?;
    let der: Pkcs8V1Der<'_> = pair
        .as_der()
        .map_err(|_| Failure::new("cannot encode the RSA key pair"))?;
    let text = pem::encode(&pem::Pem::new("PRIVATE KEY", der.as_ref()));
    write_private(file, text.as_bytes())?;
    DevelopmentKey::read(file)
}
