# syntax=docker/dockerfile:1
#
#   docker build -t pierhead .
#
# The base images are arguments, for places that mirror them. Whoever has the program already
# builds the last stage alone, with a directory in place of the stage `binary`:
#
#   docker build -t pierhead --build-context binary=target/release .
#
# That program must fit the C library of RUNTIME_IMAGE (Debian 12's: GLIBC 2.36).
ARG BUILD_IMAGE=docker.io/library/rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
# SQLite and ring bring C of their own.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo xtask plugins && \
    cargo build --release --locked --bin pierhead && \
    mkdir /out && strip -o /out/pierhead target/release/pierhead

FROM scratch AS binary
COPY --from=build /out/pierhead /pierhead

FROM ${RUNTIME_IMAGE}
LABEL org.opencontainers.image.title="Pierhead" \
      org.opencontainers.image.description="A WASM-extensible pull-through cache proxy for container images" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.documentation="docs/operations.md"
COPY --from=binary --chmod=0755 /pierhead /usr/local/bin/pierhead
# Owned by the user below in a new volume; a bind mount has to be. There is no shell for a RUN.
COPY --chown=65532:65532 deploy/docker/data /var/lib/pierhead
USER 65532:65532
WORKDIR /var/lib/pierhead
# The admin listener stays on the loopback of the container.
ENV PIERHEAD_SERVER__LISTEN=0.0.0.0:5000 \
    PIERHEAD_STORAGE__PATH=/var/lib/pierhead
EXPOSE 5000
VOLUME /var/lib/pierhead
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/pierhead"]
CMD ["serve"]
