# weft as an image: one static binary and nothing else.
#
#   make image                             copies the binary built on this machine; no registry is asked
#   docker build --target source -t weft . builds it in a golang container, for those who have a registry
#
# The first stage is the target of `make image`; engines without BuildKit stop there.
FROM scratch AS binary
COPY bin/weft /weft
ENTRYPOINT ["/weft"]
CMD ["launch", "--foreground"]

FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /weft ./cmd/weft

FROM scratch AS source
COPY --from=build /weft /weft
ENTRYPOINT ["/weft"]
CMD ["launch", "--foreground"]
