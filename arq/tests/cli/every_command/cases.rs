//! The table: in this order, on one ArqonBus, so a command may use what one before it made.

use super::Place::{Bus, Files};
use super::{Case, on};

/// Files in both places, beside the policies `core.wasm` and `letters.wasm`.
pub(super) const FILES: [(&str, &str); 6] = [
    ("frame.hex", "0801"),
    ("bad.toml", "nonsense = true\n"),
    (
        "cases.toml",
        "[[case]]\nname = \"clean\"\npayload = \"hello\"\nexpect = \"allow\"\n",
    ),
    (
        "wrong.toml",
        "[[case]]\nname = \"clean\"\npayload = \"hello\"\nexpect = \"block\"\n",
    ),
    ("runs.jsonl", ""),
    ("prod.jwt", "a.b.c"),
];

/// What Shields say to a policy is loose: on a machine under load they are late, and that is told.
pub(super) const CASES: &[Case] = &[
    on(Bus, "status", "status", "status --every 1s --for never").loose(),
    on(Bus, "doctor", "doctor", "doctor --url ws://127.0.0.1:1").loose(),
    on(Bus, "sub", "sub lobby --for 1s", "sub no..room"),
    on(
        Bus,
        "pub",
        "pub lobby hello",
        "pub lobby hello --url ws://127.0.0.1:1",
    ),
    on(
        Bus,
        "presence",
        "presence lobby",
        "presence lobby --tenant nobody",
    ),
    on(
        Bus,
        "trace",
        "trace lobby --for 1s",
        "trace lobby --tenant nobody",
    ),
    on(
        Files,
        "decode",
        "decode --hex frame.hex",
        "decode missing.bin",
    ),
    on(
        Bus,
        "auth gen",
        "auth gen --user ann",
        "auth gen --ttl never",
    ),
    on(
        Bus,
        "auth inspect",
        "auth inspect TOKEN",
        "auth inspect nonsense",
    ),
    on(
        Bus,
        "auth revoke",
        "auth revoke --tenant acme --jti one",
        "auth revoke --tenant nobody --jti one",
    )
    .loose(),
    on(
        Bus,
        "auth revocations",
        "auth revocations",
        "auth revocations --tenant nobody",
    ),
    on(
        Bus,
        "auth keys list",
        "auth keys list",
        "auth keys list --xyzzy",
    ),
    on(
        Bus,
        "auth keys rotate",
        "auth keys rotate",
        "--state nowhere auth keys rotate",
    ),
    on(
        Bus,
        "auth keys retire",
        "auth keys retire --force",
        "auth keys retire",
    ),
    on(Bus, "auth jwks", "auth jwks", "auth jwks now").loose(),
    on(
        Files,
        "context add",
        "context add prod --shield-url wss://bus.example/v1/socket --token-file prod.jwt",
        "context add Prod",
    ),
    on(
        Files,
        "context set",
        "context set prod --tenant acme",
        "context set prdo --tenant acme",
    ),
    on(Files, "context use", "context use prod", "context use prdo"),
    on(Files, "context list", "context list", "context list prod"),
    on(
        Files,
        "context show",
        "context show prod",
        "context show prdo",
    ),
    on(
        Files,
        "context remove",
        "context remove prod --force",
        "context remove prod --force",
    ),
    on(
        Bus,
        "session list",
        "session list --tenant acme",
        "session list --tenant nobody",
    ),
    on(
        Bus,
        "session kick",
        "session kick --tenant acme --user ann",
        "session kick 01890a5d-ac96-774b-bcce-b302099a8057",
    ),
    on(
        Bus,
        "tenant create",
        "tenant create initech",
        "tenant create Initech!",
    )
    .loose(),
    on(
        Bus,
        "tenant list",
        "tenant list",
        "--state nowhere tenant list",
    ),
    on(
        Bus,
        "tenant show",
        "tenant show initech",
        "tenant show initehc",
    ),
    on(
        Bus,
        "tenant limits",
        "tenant limits initech --max-rooms 5 --messages-per-sec 100",
        "tenant limits nobody",
    ),
    on(
        Bus,
        "tenant overflow",
        "tenant overflow initech ticker.> latest_only",
        "tenant overflow initech --unset lobby",
    ),
    on(
        Bus,
        "tenant issuers",
        "tenant issuers initech --add-development",
        "tenant issuers initech --remove https://nobody.example",
    ),
    on(
        Bus,
        "tenant suspend",
        "tenant suspend initech",
        "tenant suspend nobody",
    ),
    on(
        Bus,
        "tenant resume",
        "tenant resume initech",
        "tenant resume nobody",
    ),
    on(
        Bus,
        "tenant creds",
        "tenant creds initech",
        "tenant creds nobody",
    ),
    on(
        Bus,
        "tenant reassert",
        "tenant reassert",
        "tenant reassert initech",
    ),
    on(
        Bus,
        "tenant delete",
        "tenant delete initech --force",
        "tenant delete acme",
    ),
    on(Bus, "pool create", "pool create eu", "pool create Eu!"),
    on(Bus, "pool list", "pool list", "--state nowhere pool list"),
    on(
        Bus,
        "pool rotate-key",
        "pool rotate-key eu",
        "pool rotate-key nobody",
    ),
    on(
        Bus,
        "policy add blocklist",
        "policy add blocklist --words spam --tenant acme",
        "policy add blocklist --tenant acme",
    )
    .loose(),
    on(
        Bus,
        "policy add size-and-shape",
        "policy add size-and-shape --max-payload 16KiB --platform",
        "policy add size-and-shape --max-payload much --platform",
    )
    .loose(),
    on(
        Bus,
        "policy add redact",
        "policy add redact --emails --tenant acme --shadow",
        "policy add redact --emails",
    )
    .loose(),
    on(
        Bus,
        "policy push",
        "policy push letters.wasm --name letters",
        "policy push missing.wasm",
    )
    .loose(),
    on(
        Bus,
        "policy bind",
        "policy bind letters --tenant globex",
        "policy bind nobody --tenant globex",
    )
    .loose(),
    on(
        Bus,
        "policy list",
        "policy list",
        "--state nowhere policy list",
    ),
    on(
        Bus,
        "policy show",
        "policy show letters",
        "policy show nobody",
    )
    .loose(),
    on(
        Bus,
        "policy versions",
        "policy versions letters",
        "policy versions nobody",
    )
    .loose(),
    on(
        Bus,
        "policy rollback",
        "policy rollback letters --tenant globex",
        "policy rollback letters --tenant acme",
    )
    .loose()
    .first(&[
        "policy push second.wasm --name letters",
        "policy bind letters --tenant globex",
    ]),
    on(
        Bus,
        "policy unbind",
        "policy unbind letters --tenant globex",
        "policy unbind letters --tenant globex",
    )
    .loose(),
    on(
        Bus,
        "policy logs",
        "policy logs",
        "policy logs --since never",
    ),
    on(
        Files,
        "policy new",
        "policy new greeter",
        "policy new Greeter!",
    ),
    on(
        Files,
        "policy build",
        "policy build core.wasm -o built.wasm",
        "policy build missing.wasm",
    ),
    on(
        Files,
        "policy check",
        "policy check letters.wasm",
        "policy check missing.wasm",
    ),
    on(
        Files,
        "policy test",
        "policy test letters.wasm --cases cases.toml",
        "policy test letters.wasm --cases missing.toml",
    ),
    on(
        Files,
        "policy bench",
        "policy bench letters.wasm --messages 100",
        "policy bench missing.wasm",
    )
    .loose(),
    on(Files, "spine init", "spine init", "spine init now"),
    on(
        Files,
        "spine config",
        "spine config",
        "--state nowhere spine config",
    )
    .loose(),
    on(
        Files,
        "spine creds",
        "spine creds shield shield-2",
        "spine creds shield Shield!",
    ),
    on(
        Files,
        "config init",
        "config init config.toml",
        "config init config.toml",
    ),
    on(
        Bus,
        "config check",
        "config check .arqon/config.toml",
        "config check bad.toml",
    ),
    on(
        Files,
        "config show",
        "config show config.toml",
        "config show missing.toml",
    )
    .loose(),
    on(Files, "config docs", "config docs", "config docs now").loose(),
    on(
        Bus,
        "bench connect",
        "bench connect --count 2 --rate 10",
        "bench connect --url nowhere",
    )
    .loose(),
    on(
        Bus,
        "bench echo",
        "bench echo --pairs 1 --rate 20 --seconds 1 --warmup 1",
        "bench echo --url nowhere",
    )
    .loose(),
    on(
        Bus,
        "bench fanout",
        "bench fanout --members 2 --rooms 1 --rate 20 --seconds 1 --warmup 1",
        "bench fanout --url nowhere",
    )
    .loose(),
    on(
        Bus,
        "bench pairs",
        "bench pairs --pairs 1 --rate 20 --seconds 1 --warmup 1",
        "bench pairs --url nowhere",
    )
    .loose(),
    on(
        Bus,
        "bench idle",
        "bench idle --count 2 --settle 1 --pid shield=SHIELD_PID",
        "bench idle --url nowhere",
    )
    .loose(),
    on(
        Bus,
        "bench slow",
        "bench slow --members 10 --stalled 2 --rooms 2 --megabytes 0.1 --calm 1 --stall 1 --pid shield=SHIELD_PID",
        "bench slow --members 10 --stalled 20",
    )
    .loose(),
    on(
        Bus,
        "bench storm",
        "bench storm --clients 20 --stayers 2 --rate 20 --calm 1 --pid shield=SHIELD_PID",
        "bench storm --clients 0",
    )
    .loose(),
    on(
        Bus,
        "bench noisy",
        "bench noisy --quiet 2 --rate 20 --noisy 2 --quota 20 --span 1 --noisy-tenant acme --pid shield=SHIELD_PID",
        "bench noisy",
    )
    .loose(),
    on(
        Bus,
        "bench presence",
        "bench presence --members 10 --in-room 5 --large-room 5 --storm 0",
        "bench presence --members none",
    )
    .loose(),
    on(
        Files,
        "bench policy",
        "bench policy --sizes 128 --messages 20 --policies 2",
        "bench policy --messages none",
    )
    .loose(),
    on(
        Files,
        "bench table",
        "bench table runs.jsonl",
        "bench table missing.jsonl",
    ),
    on(Files, "completions", "completions bash", "completions tcsh").loose(),
    on(Files, "man", "man tenant create", "man tenant crate").loose(),
    on(Files, "version", "version", "version now").loose(),
    on(Files, "help", "help exit-codes", "help exit-cods"),
    on(
        Bus,
        "dev up",
        "dev up --native",
        "dev up --native --brains 9",
    )
    .loose(),
    on(Bus, "dev status", "dev status", "dev status now").loose(),
    on(
        Bus,
        "dev logs",
        "dev logs shield --lines 1",
        "dev logs sheild",
    )
    .loose(),
    on(
        Bus,
        "dev restart",
        "dev restart brain-1",
        "dev restart sheild",
    )
    .loose(),
    on(
        Files,
        "dev init",
        "dev init --parts parts --nats nats --shield shield --brain brain",
        "dev init --parts cases.toml",
    ),
    on(
        Bus,
        "dev open",
        "dev open --no-browser --port 0",
        "dev open --port none",
    )
    .until_told()
    .loose(),
    on(Bus, "dev down", "dev down", "dev down now"),
    on(Bus, "dev reset", "dev reset --force", "dev reset now"),
];
