# The habits, one recipe each: `just NAME`, or read the line below the name and type it.

# What CI runs.
ci:
    bash .ci/run

fmt:
    cargo fmt --all

lint:
    cargo fmt --all --check
    cargo clippy --all-targets --all-features -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items
    shellcheck -x scripts/*.sh scripts/lib/*.sh .ci/run

# Unit tests only; they need no services.
unit *ARGS:
    cargo test --lib {{ARGS}}

# Every test, on services that are given, up already, or private for the run.
test *ARGS:
    scripts/test.sh {{ARGS}}

# After a change of a query or a migration.
sqlx-prepare:
    scripts/sqlx-prepare.sh

sqlx-check:
    scripts/sqlx-prepare.sh --check

# What the tools of others say of deploy/ and the compose file.
check-deploy:
    scripts/check-deploy.sh

# The documents as a book: just book --serve
book *ARGS:
    scripts/book.sh {{ARGS}}

# docs/reference/, from the command line, the settings, the schemas and the words.
update-docs:
    UPDATE_DOCS=1 cargo test --test docs

# The Debian package.
package:
    scripts/package.sh

deny:
    cargo deny check bans licenses sources

# Services for development: just up; eval "$(scripts/services.sh env)"
up:
    scripts/services.sh up

down:
    scripts/services.sh down

migrate:
    eval "$(scripts/services.sh env)" && cargo run -- migrate

# Kills everything under load, and counts what reached each recipient: just chaos --minutes 10 --seed 3
chaos *ARGS:
    scripts/chaos.sh {{ARGS}}

demo *ARGS:
    scripts/demo.sh {{ARGS}}

# The dashboard in a real Chromium: just browser --short
browser *ARGS:
    scripts/browser.sh {{ARGS}}

# The producers of examples/producers: just producers python go
producers *ARGS:
    scripts/producers.sh {{ARGS}}
