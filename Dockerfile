# The worker and every other command in one small image:
#   docker build -t im-dispatcher . && docker run --rm im-dispatcher --help

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# .cargo/config.toml keeps sqlx offline: the build needs no database. The binary leaves the cached target folder.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin im-dispatcher \
    && install -D target/release/im-dispatcher /out/im-dispatcher

FROM busybox:stable-musl AS busybox

# glibc, libgcc, CA certificates, an account without rights; no shell and no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out/im-dispatcher /usr/local/bin/im-dispatcher
# One static binary, for the health check's HTTP request.
COPY --from=busybox /bin/busybox /usr/local/bin/busybox
# SIGTERM drains. Give it time: docker stop --time 60, or stop_grace_period in a compose file.
STOPSIGNAL SIGTERM
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["/usr/local/bin/busybox", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8080/healthz"]
ENTRYPOINT ["/usr/local/bin/im-dispatcher"]
CMD ["worker"]
