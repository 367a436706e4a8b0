/**
 * What a client does about replicas that are full, or restart: docs/grpc.md. @grpc/grpc-js takes turns by it and tries
 * again; it does not watch health, and passes over `healthCheckConfig`.
 */
export const serviceConfig = {
  loadBalancingConfig: [{ round_robin: {} }],
  healthCheckConfig: { serviceName: "rerankd.v1.RerankService" },
  methodConfig: [
    {
      name: [{ service: "rerankd.v1.RerankService" }],
      retryPolicy: {
        maxAttempts: 3,
        initialBackoff: "0.1s",
        maxBackoff: "1s",
        backoffMultiplier: 2,
        retryableStatusCodes: ["UNAVAILABLE", "CANCELLED"],
      },
    },
  ],
  retryThrottling: { maxTokens: 100, tokenRatio: 0.5 },
};
