import java.util.Random;

/** Holds a graph of objects that a collector moves all the time, and checks every one of them in each round: "progress N", or FAIL. */
public class Moving {
    record Node(long id, int version, Node next, byte[] load) {}

    static byte load(long id, int version, int i) {
        return (byte) (id * 31 + version * 7 + i);
    }

    static Node node(long id, int version, Node next) {
        byte[] load = new byte[16 + (int) (id % 200)];
        for (int i = 0; i < load.length; i++) load[i] = load(id, version, i);
        return new Node(id, version, next, load);
    }

    public static void main(String[] args) {
        int many = Integer.parseInt(args[0]);
        Node[] nodes = new Node[many];
        int[] versions = new int[many];
        Random random = new Random(1);
        for (int id = 0; id < many; id++) nodes[id] = node(id, 0, id == 0 ? null : nodes[random.nextInt(id)]);
        for (int round = 1; ; round++) {
            for (int k = 0; k < many / 4; k++) {
                int id = random.nextInt(many);
                nodes[id] = node(id, ++versions[id], id == 0 ? null : nodes[random.nextInt(id)]);
            }
            for (int id = 0; id < many; id++) {
                Node n = nodes[id];
                boolean good = n.id == id && n.version == versions[id] && n.load.length == 16 + id % 200 && (n.next == null || n.next.id < id);
                for (int i = 0; good && i < n.load.length; i++) good = n.load[i] == load(id, n.version, i);
                if (!good) {
                    System.out.println("FAIL round " + round + ": object " + id + " is " + n + ", version " + versions[id]);
                    System.exit(1);
                }
                if (n.next != null && n.next.next != null) nodes[id] = new Node(n.id, n.version, nodes[(int) n.next.id], n.load); // chains stay short
            }
            if (round % 20 == 0) System.gc();
            System.out.println("progress " + round);
        }
    }
}
