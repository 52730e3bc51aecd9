import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;

/** An HTTP server that answers each request with how many it is of its path, and makes garbage meanwhile. */
public class Counted {
    public static void main(String[] args) throws Exception {
        var counts = new ConcurrentHashMap<String, Integer>();
        var server = HttpServer.create(new InetSocketAddress(args[0], Integer.parseInt(args[1])), 0);
        server.createContext("/", exchange -> {
            exchange.getRequestBody().readAllBytes();
            var text = new StringBuilder();
            for (int i = 0; i < 2000; i++) text.append(i);
            int n = counts.merge(exchange.getRequestURI().getPath(), 1, Integer::sum);
            if (text.length() != 6890) throw new IllegalStateException("garbage of " + text.length());
            byte[] body = (n + "\n").getBytes();
            exchange.sendResponseHeaders(200, body.length);
            try (var out = exchange.getResponseBody()) {
                out.write(body);
            }
        });
        server.setExecutor(Executors.newFixedThreadPool(4));
        server.start();
    }
}
