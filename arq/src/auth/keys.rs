//! The RSA key pair that signs development tokens.

use std::path::Path;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey};

use crate::context::{Context, create_folder, write_private};
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
    /// Whether the context is one for development: it has a key.
    pub(crate) fn exists(context: &Context) -> bool {
        context.dev_folder().join("token-key.pem").exists()
    }

    /// The context's development key; made on first use.
    pub(crate) fn open(context: &Context, output: &Output) -> Result<Self> {
        let folder = context.dev_folder();
        let file = folder.join("token-key.pem");
        if !file.exists() {
            create_folder(&folder)?;
            let pair = KeyPair::generate(KeySize::Rsa2048)
                .map_err(|_| Failure::new("cannot generate an RSA key pair"))?;
            let der: Pkcs8V1Der<'_> = pair
                .as_der()
                .map_err(|_| Failure::new("cannot encode the RSA key pair"))?;
            let text = pem::encode(&pem::Pem::new("PRIVATE KEY", der.as_ref()));
            write_private(&file, text.as_bytes())?;
            let key = Self::read(&file)?;
            // The public half stands beside it, for whoever configures a tenant by hand.
            std::fs::write(folder.join("token-key.pub.pem"), &key.public_pem)
                .doing("cannot write the public key")?;
            output.note(format!("made the development key pair {}", file.display()));
            return Ok(key);
        }
        Self::read(&file)
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

    /// The public half as a JWKS document.
    pub(crate) fn jwks(&self) -> Result<JwkSet> {
        Ok(JwkSet {
            keys: vec![self.jwk.clone()],
        })
    }

    /// The public half as what verifies.
    pub(crate) fn verifying(&self) -> Result<jsonwebtoken::DecodingKey> {
        Ok(jsonwebtoken::DecodingKey::from_jwk(&self.jwk)?)
    }
}
