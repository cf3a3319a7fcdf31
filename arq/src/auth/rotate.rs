//! `arq auth keys`: the development key pair, and another in its place.

use std::fs::File;
use std::path::{Path, PathBuf};

use arqon_proto::v1::{PemKey, TenantRecord, issuer::Keys};
use arqon_spine::admin::Admin;
use arqon_spine::files;
use clap::Subcommand;
use serde_json::json;

use super::keys::{DevelopmentKey, generate};
use crate::Globals;
use crate::admin::{explain, with};
use crate::context::Context;
use crate::failure::{Doing, Failure, Result};
use crate::output::counted;

/// What can be done with the development keys.
#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Show the development keys and what they are for
    List,
    /// Sign tokens with a new key from now on; those of the old key stay good
    ///
    /// Every tenant that trusts the old key trusts both, then `arq` signs with the new one. `arq
    /// auth keys retire` ends the trust in the old one.
    Rotate,
    /// Trust the old development key no more; its tokens open no session from now on
    Retire {
        /// Do not ask
        #[arg(long)]
        force: bool,
    },
}

/// Does what was asked.
pub(super) fn run(command: &KeysCommand, globals: &Globals) -> Result {
    match command {
        KeysCommand::List => list(globals),
        KeysCommand::Rotate => rotate(globals),
        KeysCommand::Retire { force } => retire(*force, globals),
    }
}

fn list(globals: &Globals) -> Result {
    let context = globals.context()?;
    let mut rows = Vec::new();
    let mut objects = Vec::new();
    for (file, what) in [
        (DevelopmentKey::file(&context), "signs"),
        (
            DevelopmentKey::old_file(&context),
            "verifies, until it is retired",
        ),
        (
            DevelopmentKey::next_file(&context),
            "waits for its rotation to be finished",
        ),
    ] {
        if file.exists() {
            let key = DevelopmentKey::read(&file)?;
            objects.push(json!({"kid": key.kid, "state": what, "file": file}));
            rows.push(vec![key.kid, what.to_owned(), file.display().to_string()]);
        }
    }
    if globals.output.json {
        return globals.output.object(&objects);
    }
    globals.output.table(
        &["kid", "state", "file"],
        rows,
        "no development key; `arq auth gen` makes one",
    )
}

fn needs_key(context: &Context) -> Result {
    if DevelopmentKey::exists(context) {
        return Ok(());
    }
    Err(Failure::new(format!(
        "there is no development key in {}",
        context.place()
    ))
    .hint("`arq auth gen` makes one; the keys of production are your identity provider's"))
}

fn rotate(globals: &Globals) -> Result {
    let context = globals.context()?;
    needs_key(&context)?;
    let _turn = turn(&context)?;
    let old_file = DevelopmentKey::old_file(&context);
    let file = DevelopmentKey::file(&context);
    let next_file = DevelopmentKey::next_file(&context);
    let old = DevelopmentKey::read(&file)?;
    let kept = old_file.exists();
    if kept && !is_cut_off(&old, &old_file)? {
        // A rotation that ended just before this may have left the former one here.
        old.write_public(&context)?;
        return Err(Failure::new("the key before this one is still trusted")
            .hint("`arq auth keys retire` ends that; then rotate again"));
    }
    // One that is there is of a rotation that was cut off: tenants may trust it already.
    let next = if next_file.exists() {
        DevelopmentKey::read(&next_file)?
    } else {
        generate(&next_file)?
    };
    let changed = if context.spine_folder().is_dir() {
        with(globals, async |_, admin| {
            change_keys(admin, |keys| {
                let trusts = keys.iter().any(|key| key.kid == old.kid);
                let add = trusts && keys.iter().all(|key| key.kid != next.kid);
                if add {
                    keys.push(PemKey {
                        kid: next.kid.clone(),
                        pem: next.public_pem.clone(),
                    });
                }
                add
            })
            .await
        })?
    } else {
        Vec::new()
    };
    let moved = |from: &PathBuf, to: &PathBuf| {
        std::fs::rename(from, to)
            .and_then(|()| files::settle(to))
            .doing(format!("cannot move {}", from.display()))
    };
    // A link, so that at no time there is no key that signs.
    if !kept {
        std::fs::hard_link(&file, &old_file)
            .and_then(|()| files::settle(&old_file))
            .doing(format!("cannot keep {}", file.display()))?;
    }
    moved(&next_file, &file)?;
    next.write_public(&context)?;
    if globals.output.json {
        return globals
            .output
            .object(&json!({"kid": next.kid, "old_kid": old.kid, "tenants": changed}));
    }
    globals.output.note(format!(
        "tokens are signed with {} from now on; {} trust it and the old one, until `arq auth keys retire`",
        next.kid,
        counted(changed.len(), "tenant")
    ));
    Ok(())
}

/// One rotation or retirement at a time; the kernel lets go of it however that ends.
fn turn(context: &Context) -> Result<File> {
    let path = context.dev_folder().join("keys.lock");
    let file = File::create(&path).doing(format!("cannot open {}", path.display()))?;
    file.lock()
        .doing(format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// Whether a rotation ended between keeping the key that signs and putting the next in its place:
/// the one that is kept as the old one signs still.
fn is_cut_off(signing: &DevelopmentKey, old_file: &Path) -> Result<bool> {
    Ok(DevelopmentKey::read(old_file)?.kid == signing.kid)
}

fn retire(force: bool, globals: &Globals) -> Result {
    let context = globals.context()?;
    needs_key(&context)?;
    let _turn = turn(&context)?;
    let old_file = DevelopmentKey::old_file(&context);
    if !old_file.exists() {
        return Err(Failure::new("there is no old key to retire")
            .hint("`arq auth keys rotate` puts a new one in its place first"));
    }
    let old = DevelopmentKey::read(&old_file)?;
    if is_cut_off(
        &DevelopmentKey::read(&DevelopmentKey::file(&context))?,
        &old_file,
    )? {
        return Err(
            Failure::new("a rotation was cut off, and the old key signs still")
                .hint("`arq auth keys rotate` finishes it; then retire"),
        );
    }
    if !force
        && !globals.output.confirm(&format!(
            "Trust tokens of {} no more in {}?",
            old.kid,
            context.place()
        ))
    {
        return Err(Failure::new("nothing was changed").hint("--force retires it without asking"));
    }
    let changed = if context.spine_folder().is_dir() {
        with(globals, async |_, admin| {
            change_keys(admin, |keys| {
                let before = keys.len();
                keys.retain(|key| key.kid != old.kid);
                keys.len() != before
            })
            .await
        })?
    } else {
        Vec::new()
    };
    std::fs::remove_file(&old_file).doing(format!("cannot delete {}", old_file.display()))?;
    if globals.output.json {
        return globals
            .output
            .object(&json!({"retired_kid": old.kid, "tenants": changed}));
    }
    globals.output.note(format!(
        "{} is trusted no more, by {}",
        old.kid,
        counted(changed.len(), "tenant")
    ));
    Ok(())
}

/// Changes the keys of the development issuers of all tenants; gives the tenants that changed.
async fn change_keys(
    admin: &Admin,
    mut change: impl FnMut(&mut Vec<PemKey>) -> bool,
) -> Result<Vec<String>> {
    let mut changed = Vec::new();
    for TenantRecord {
        id, mut issuers, ..
    } in admin.list().await.map_err(explain)?
    {
        let mut touched = false;
        for issuer in issuers.iter_mut().filter(|issuer| issuer.development) {
            if let Some(Keys::Pem(pem)) = &mut issuer.keys {
                touched |= change(&mut pem.keys);
            }
        }
        if touched {
            admin
                .set_issuers(&crate::tenant::parse(&id)?, issuers)
                .await
                .map_err(explain)?;
            changed.push(id);
        }
    }
    Ok(changed)
}
