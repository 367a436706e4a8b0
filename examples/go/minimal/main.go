// The least that asks: README.md's lines to copy.
package main

import (
	"context"
	"fmt"
	"log"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	rerankdv1 "github.com/rerankd/rerankd/examples/go/gen/rerankd/v1"
)

func main() {
	channel, err := grpc.NewClient("localhost:50051", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	response, err := rerankdv1.NewRerankServiceClient(channel).Rerank(ctx, &rerankdv1.RerankRequest{
		Query:    "How do I keep bread fresh for longer?",
		Contexts: []*rerankdv1.Context{{Text: "Freeze it."}, {Text: "It opens at six."}},
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, result := range response.Results {
		fmt.Println(result.Id, result.Score)
	}
}
