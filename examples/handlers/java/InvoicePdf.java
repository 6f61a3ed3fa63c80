// A handler in Java: accepts only signed deliveries, and does the work of a job once.
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.security.MessageDigest;
import java.util.*;
import java.util.concurrent.Executors;
import java.util.regex.Pattern;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

public class InvoicePdf {
  static final int MAX_BODY_BYTES = 1_048_576;
  static final String SECRET =
      Objects.requireNonNull(System.getenv("POSTHORN_SECRET"), "POSTHORN_SECRET is not set");
  static final byte[] KEY = Base64.getDecoder().decode(SECRET.replaceFirst("^whsec_", ""));

  record Finished(long fence, String result) {}
  record Response(int status, String body) {}

  // In memory, for the example. Store yours in the database of the work, in the same transaction.
  static final Map<String, Finished> done = new HashMap<>();

  static boolean isGenuine(String id, String timestamp, String signatures, byte[] body) throws Exception {
    if (id.contains(".") || !timestamp.matches("[0-9]{1,12}")) return false;
    if (Math.abs(System.currentTimeMillis() / 1000 - Long.parseLong(timestamp)) > 300) return false;
    Mac mac = Mac.getInstance("HmacSHA256");
    mac.init(new SecretKeySpec(KEY, "HmacSHA256"));
    mac.update((id + "." + timestamp + ".").getBytes());
    byte[] expected = ("v1," + Base64.getEncoder().encodeToString(mac.doFinal(body))).getBytes();
    boolean found = false;
    for (String one : signatures.split(" ")) // two while a secret is rotated
      found |= MessageDigest.isEqual(expected, one.getBytes());
    return found;
  }

  static synchronized Response doOnce(String id, long fence, String payload) {
    Finished before = done.get(id);
    if (before != null && fence < before.fence())
      return new Response(409, "{\"error\":\"a newer attempt has begun\"}");
    String result = before != null ? before.result() : makePdf(payload);
    done.put(id, new Finished(fence, result));
    return new Response(200, result);
  }

  static String makePdf(String payload) {
    // Java has no JSON parser of its own: use the one of your project.
    var invoice = Pattern.compile("\"invoice\"\\s*:\\s*(\\d+)").matcher(payload);
    if (!invoice.find()) throw new IllegalArgumentException("the payload names no invoice");
    System.out.println("makes the PDF of invoice " + invoice.group(1));
    return "{\"invoice\":" + invoice.group(1) + ",\"pages\":3}";
  }

  static Response handle(HttpExchange exchange) throws Exception {
    byte[] body = exchange.getRequestBody().readNBytes(MAX_BODY_BYTES + 1);
    if (body.length > MAX_BODY_BYTES) return new Response(413, "{}");
    var headers = exchange.getRequestHeaders();
    String id = Objects.toString(headers.getFirst("webhook-id"), "");
    String timestamp = Objects.toString(headers.getFirst("webhook-timestamp"), "");
    String signatures = Objects.toString(headers.getFirst("webhook-signature"), "");
    if (!isGenuine(id, timestamp, signatures, body)) return new Response(401, "{\"error\":\"not signed\"}");
    if ("true".equals(headers.getFirst("posthorn-test"))) return new Response(200, "{}");
    return doOnce(id, Long.parseLong(headers.getFirst("posthorn-fence")), new String(body));
  }

  public static void main(String[] arguments) throws Exception {
    System.setProperty("sun.net.httpserver.maxReqTime", "10"); // seconds
    int port = Integer.parseInt(System.getenv().getOrDefault("PORT", "3000"));
    HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
    server.setExecutor(Executors.newFixedThreadPool(8));
    server.createContext("/", exchange -> {
      Response response;
      try {
        response = handle(exchange);
      } catch (Exception error) {
        error.printStackTrace();
        response = new Response(500, "{}");
      }
      exchange.getResponseHeaders().set("content-type", "application/json");
      byte[] bytes = response.body().getBytes();
      exchange.sendResponseHeaders(response.status(), bytes.length);
      exchange.getResponseBody().write(bytes);
      exchange.close();
    });
    server.start();
    System.out.println("listening on port " + server.getAddress().getPort());
  }
}
