module starling.dev/e2e/claims

go 1.26.0

require github.com/klauspost/compress v1.20.3 // indirect

require github.com/nats-io/jwt/v2 v2.8.2

require github.com/nats-io/nats.go v1.53.1

require github.com/nats-io/nkeys v0.4.16

require github.com/nats-io/nuid v1.0.1 // indirect

require golang.org/x/crypto v0.58.0 // indirect

require golang.org/x/sys v0.49.0 // indirect
