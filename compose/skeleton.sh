#!/bin/sh
# skeleton.sh FROM TO: the Cargo workspace FROM without its code, in TO. Every manifest stands there, and every file that
# Cargo takes for the root of a crate, empty: enough to build the dependencies, and the same for as long as those are.
set -eu

from=$1
to=$2
mkdir -p "$to"
cp "$from/Cargo.toml" "$from/Cargo.lock" "$to/"
cd "$from"
find . -name Cargo.toml -not -path './shield/policy/policies/*' -not -path './shield/policy/templates/*' | while read -r manifest; do
    crate=${manifest%/Cargo.toml}
    mkdir -p "$to/$crate"
    cp "$manifest" "$to/$crate/Cargo.toml"
    for file in "$crate"/build.rs "$crate"/src/lib.rs "$crate"/src/main.rs; do
        [ -f "$file" ] || continue
        mkdir -p "$to/${file%/*}"
        case $file in
            */lib.rs) echo '//! Empty.' >"$to/$file" ;;
            *) printf '//! Empty.\nfn main() {}\n' >"$to/$file" ;;
        esac
    done
done
