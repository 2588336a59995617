// The benchmark's contract in Go: net/http, pgx, and golang.org/x/crypto for argon2id.
// This file has the server, users.go what it answers, bulk.go the export and the import.
package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
	"golang.org/x/crypto/argon2"
)

// server is what its methods share.
type server struct {
	pool           *pgxpool.Pool
	memory, passes uint32
	hashing        chan struct{} // as many at a time as there are cores
}

func main() {
	config, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	config.MaxConns = int32(number("POOL_SIZE"))
	pool, err := pgxpool.ConnectConfig(context.Background(), config)
	if err != nil {
		log.Fatal(err)
	}
	s := &server{pool, number("HASH_MEMORY"), number("HASH_PASSES"), make(chan struct{}, runtime.NumCPU())}
	mux := http.NewServeMux()
	mux.Handle("/users", methods{"GET": s.listUsers, "POST": s.createUser})
	mux.Handle("/users/", methods{"GET": s.getUser, "PATCH": s.updateUser})
	mux.Handle("/users/lookup", methods{"POST": s.lookUpUsers})
	mux.HandleFunc("/users/export", s.exportUsers)
	mux.Handle("/users/import", methods{"POST": s.importUsers})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), authorize(os.Getenv("KEY_HASH"), mux)))
}

func number(name string) uint32 {
	value, err := strconv.ParseUint(os.Getenv(name), 10, 31)
	if err != nil {
		log.Fatal(name, ": ", err)
	}
	return uint32(value)
}

func authorize(keyHash string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if scheme != "Bearer" || fmt.Sprintf("%x", sha256.Sum256([]byte(key))) != keyHash {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "a known key is needed", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// methods are the functions of one path; what they return is sent as JSON.
type methods map[string]func(http.ResponseWriter, *http.Request) (any, error)

func (m methods) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	handle, ok := m[r.Method]
	if !ok {
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	body, err := handle(w, r)
	if err != nil {
		status := statusOf(err)
		http.Error(w, http.StatusText(status), status)
		return
	}
	json.NewEncoder(w).Encode(body)
}

var errInvalid = errors.New("the request does not fit")

func statusOf(err error) int {
	var refused *pgconn.PgError
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return http.StatusNotFound
	case errors.As(err, &refused) && refused.Code == "23505": // a unique constraint
		return http.StatusConflict
	case errors.Is(err, errInvalid), refused != nil && strings.HasPrefix(refused.Code, "22"):
		return http.StatusUnprocessableEntity
	case !errors.Is(err, context.Canceled): // canceled by a client that left
		log.Print(err)
	}
	return http.StatusInternalServerError
}

func (s *server) hash(password string) (string, error) {
	s.hashing <- struct{}{}
	defer func() { <-s.hashing }()
	salt := make([]byte, 16)
	if _, err := rand.Read(salt); err != nil {
		return "", err
	}
	key := argon2.IDKey([]byte(password), salt, s.passes, s.memory, 1, 32)
	encode := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=1$%s$%s",
		argon2.Version, s.memory, s.passes, encode(salt), encode(key)), nil
}
