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
LABEL org.opencontainers.image.title="im-dispatcher" \
      org.opencontainers.image.description="Outbound dispatcher for Tencent Cloud IM" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /out/im-dispatcher /usr/local/bin/im-dispatcher
# One static binary, for the health check's HTTP request.
COPY --from=busybox /bin/busybox /usr/local/bin/busybox
# By number, so that Kubernetes can see that it isn't root.
USER 65532:65532
# SIGTERM drains. Give it time: docker stop --time 60, or stop_grace_period in a compose file.
STOPSIGNAL SIGTERM
EXPOSE 8080
# Of the process only: a database that is away is no reason to restart it, and /readyz says so.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["/usr/local/bin/busybox", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8080/healthz"]
ENTRYPOINT ["/usr/local/bin/im-dispatcher"]
CMD ["worker"]
