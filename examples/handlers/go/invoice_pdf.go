// A handler in Go: accepts only signed deliveries, and does the work of a job once.
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const maxBodyBytes = 1 << 20

type finished struct {
	fence  int64
	result map[string]any
}

var key []byte

// In memory, for the example. Store yours in the database of the work, in the same transaction.
var done = map[string]finished{}
var lock sync.Mutex

func isGenuine(header http.Header, body []byte) bool {
	id, timestamp := header.Get("webhook-id"), header.Get("webhook-timestamp")
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	age := time.Now().Unix() - seconds
	if err != nil || strings.Contains(id, ".") || age > 300 || age < -300 {
		return false
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", id, timestamp, body)
	expected := []byte("v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	for _, one := range strings.Split(header.Get("webhook-signature"), " ") { // two while a secret is rotated
		if hmac.Equal(expected, []byte(one)) {
			return true
		}
	}
	return false
}

func doOnce(id string, fence int64, invoice int) (int, map[string]any) {
	lock.Lock()
	defer lock.Unlock()
	before, found := done[id]
	if found && fence < before.fence {
		return 409, map[string]any{"error": "a newer attempt has begun"}
	}
	if !found {
		before.result = makePDF(invoice)
	}
	done[id] = finished{fence, before.result}
	return 200, before.result
}

func makePDF(invoice int) map[string]any {
	fmt.Printf("makes the PDF of invoice %d\n", invoice)
	return map[string]any{"invoice": invoice, "pages": 3}
}

func handle(request *http.Request) (int, map[string]any) {
	body, err := io.ReadAll(io.LimitReader(request.Body, maxBodyBytes+1))
	if err != nil || len(body) > maxBodyBytes {
		return 413, nil
	}
	if !isGenuine(request.Header, body) {
		return 401, map[string]any{"error": "not signed"}
	}
	if request.Header.Get("posthorn-test") == "true" {
		return 200, map[string]any{}
	}
	var payload struct{ Invoice int }
	fence, err := strconv.ParseInt(request.Header.Get("posthorn-fence"), 10, 64)
	if err != nil || json.Unmarshal(body, &payload) != nil {
		return 422, map[string]any{"error": "not a job of this handler"}
	}
	return doOnce(request.Header.Get("webhook-id"), fence, payload.Invoice)
}

func main() {
	var err error
	key, err = base64.StdEncoding.DecodeString(strings.TrimPrefix(os.Getenv("POSTHORN_SECRET"), "whsec_"))
	if err != nil || len(key) == 0 {
		log.Fatal("POSTHORN_SECRET must be the endpoint's secret: whsec_ and base64")
	}
	port := os.Getenv("PORT")
	if port == "" {
		port = "3000"
	}
	listener, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening on port", listener.Addr().(*net.TCPAddr).Port)
	server := http.Server{ReadTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(response http.ResponseWriter, request *http.Request) {
		status, body := handle(request)
		response.Header().Set("content-type", "application/json")
		response.WriteHeader(status)
		json.NewEncoder(response).Encode(body)
	})}
	log.Fatal(server.Serve(listener))
}
