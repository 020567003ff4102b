#!/bin/sh
# A certificate authority, a server's certificate for a.localhost and a client's, for examples/static/tls.yaml. For trying out only.
set -eu
folder=${1:?usage: certificates.sh FOLDER}
umask 077
mkdir -p "$folder"
cd "$folder"
key="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
openssl req -x509 $key -keyout ca.key -out ca.pem -days 30 -subj "/CN=Sidegate example CA" 2>/dev/null
issue() {
    openssl req $key -keyout "$1.key" -out "$1.csr" -subj "/CN=$1" 2>/dev/null
    printf 'subjectAltName=%s\nextendedKeyUsage=%s\nbasicConstraints=CA:FALSE\nkeyUsage=digitalSignature\n' "$2" "$3" > "$1.ext"
    openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile "$1.ext" -out "$1.pem" 2>/dev/null
    rm "$1.csr" "$1.ext"
}
issue server "DNS:localhost,DNS:a.localhost,IP:127.0.0.1" serverAuth
issue client "URI:spiffe://example.org/ns/shop/sa/client" clientAuth
echo "wrote ca.pem, server.pem/.key and client.pem/.key to $folder"
