// A gRPC peer that nobody here wrote the inside of: grpc-go, with go-spiffe's judgement of who is at the other end. It uses the files
// that `sidegate agent` keeps. Names of services, methods and messages do not matter: messages are bytes.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// raw is a codec that leaves messages as they are.
type raw struct{}

func (raw) Marshal(value any) ([]byte, error) { return *value.(*[]byte), nil }
func (raw) Unmarshal(bytes []byte, value any) error {
	*value.(*[]byte) = append([]byte{}, bytes...)
	return nil
}
func (raw) Name() string { return "raw" }

func main() {
	folder := flag.String("files", "", "the agent's folder")
	expect := flag.String("expect", "", "the SPIFFE id that the other end must have")
	address := flag.String("address", "", "where to listen or connect")
	serve := flag.Bool("serve", false, "be the server")
	flag.Parse()
	id := spiffeid.RequireFromString(*expect)
	svid, err := x509svid.Load(*folder+"/cert-chain.pem", *folder+"/key.pem")
	check(err)
	bundle, err := x509bundle.Load(id.TrustDomain(), *folder+"/root-cert.pem")
	check(err)
	if *serve {
		server(*address, svid, bundle, id)
		return
	}
	client(*address, svid, bundle, id)
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

// client makes one call of each kind and tells what became of it, one line each.
func client(address string, svid *x509svid.SVID, bundle *x509bundle.Bundle, id spiffeid.ID) {
	config := tlsconfig.MTLSClientConfig(svid, bundle, tlsconfig.AuthorizeID(id))
	connection, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithAuthority("app.shop"), grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})))
	check(err)
	defer connection.Close()
	deadline, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	request, answer := []byte("ping"), []byte{}
	err = connection.Invoke(deadline, "/shop.Shop/Buy", &request, &answer)
	fmt.Printf("unary %s %q %q\n", status.Code(err), answer, status.Convert(err).Message())
	err = stream(deadline, connection)
	fmt.Printf("stream %s %q\n", status.Code(err), status.Convert(err).Message())
}

// stream sends and receives a hundred messages in turn.
func stream(deadline context.Context, connection *grpc.ClientConn) error {
	both := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	stream, err := connection.NewStream(deadline, both, "/shop.Shop/Talk")
	if err != nil {
		return err
	}
	for number := range 100 {
		request, answer := []byte(fmt.Sprint(number)), []byte{}
		if err := stream.SendMsg(&request); err != nil {
			return stream.RecvMsg(&answer)
		}
		if err := stream.RecvMsg(&answer); err != nil {
			return err
		}
		if string(answer) != string(request) {
			return fmt.Errorf("%q came back as %q", request, answer)
		}
	}
	return stream.CloseSend()
}

// server echoes every message of whoever has the right id, with a first message that says who that is.
func server(address string, svid *x509svid.SVID, bundle *x509bundle.Bundle, id spiffeid.ID) {
	config := tlsconfig.MTLSServerConfig(svid, bundle, tlsconfig.AuthorizeID(id))
	listener, err := net.Listen("tcp", address)
	check(err)
	echo := func(_ any, stream grpc.ServerStream) error {
		other, _ := peer.FromContext(stream.Context())
		information, _ := other.AuthInfo.(credentials.TLSInfo)
		if information.SPIFFEID == nil || information.SPIFFEID.String() != id.String() {
			return fmt.Errorf("served %v", information.SPIFFEID)
		}
		for {
			message := []byte{}
			if err := stream.RecvMsg(&message); err != nil {
				return nil
			}
			if err := stream.SendMsg(&message); err != nil {
				return err
			}
		}
	}
	options := []grpc.ServerOption{
		grpc.ForceServerCodec(raw{}), grpc.UnknownServiceHandler(echo), grpc.Creds(credentials.NewTLS(config)),
	}
	check(grpc.NewServer(options...).Serve(listener))
}
