// What Java's own client writes to Kafka, and reads from it: one program, run from its source by the tests.

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HexFormat;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.LongSerializer;

public class KafkaClient {
    static final byte[] BINARY = {0, 1, (byte) 0xff, 10};

    public static void main(String[] arguments) throws Exception {
        String servers = arguments[1], topic = arguments[2];
        switch (arguments[0]) {
            case "write" -> {
                for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) write(servers, topic, codec);
            }
            case "transact" -> transact(servers, topic);
            case "read" -> read(servers, topic, Integer.parseInt(arguments[3]));
            default -> throw new IllegalArgumentException(arguments[0]);
        }
    }

    static Properties options(String servers) {
        Properties options = new Properties();
        options.put("bootstrap.servers", servers);
        options.put("key.serializer", ByteArraySerializer.class);
        options.put("value.serializer", ByteArraySerializer.class);
        options.put("key.deserializer", ByteArrayDeserializer.class);
        options.put("value.deserializer", ByteArrayDeserializer.class);
        options.put("linger.ms", 50);
        return options;
    }

    static void write(String servers, String topic, String codec) {
        Properties options = options(servers);
        options.put("compression.type", codec);
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(options)) {
            byte[] key = new LongSerializer().serialize(topic, 42L);
            ProducerRecord<byte[], byte[]> record = new ProducerRecord<>(topic, key, codec.getBytes(StandardCharsets.UTF_8));
            record.headers().add("t", BINARY).add("t", null).add("", new byte[0]).add("na\u00efve", "v".getBytes(StandardCharsets.UTF_8));
            producer.send(record);
            producer.send(new ProducerRecord<>(topic, null, "x".repeat(3000).getBytes(StandardCharsets.UTF_8)));
            producer.send(new ProducerRecord<>(topic, key, null));
            producer.flush();
        }
    }

    static void transact(String servers, String topic) {
        Properties options = options(servers);
        options.put("transactional.id", topic);
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(options)) {
            producer.initTransactions();
            for (int round = 0; round < 6; round++) {
                boolean kept = round % 2 == 0;
                producer.beginTransaction();
                for (int number = 0; number < 3; number++) {
                    String text = (kept ? "kept " : "aborted ") + round + "." + number;
                    producer.send(new ProducerRecord<>(topic, text.getBytes(StandardCharsets.UTF_8)));
                }
                producer.flush();
                if (kept) producer.commitTransaction();
                else producer.abortTransaction();
            }
        }
    }

    static void read(String servers, String topic, int count) {
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(options(servers))) {
            TopicPartition partition = new TopicPartition(topic, 0);
            consumer.assign(List.of(partition));
            consumer.seekToBeginning(List.of(partition));
            while (count > 0) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                    StringBuilder line = new StringBuilder(hex(record.key()) + " " + hex(record.value()));
                    for (Header header : record.headers()) {
                        line.append(" ").append(hex(header.key().getBytes(StandardCharsets.UTF_8))).append("=").append(hex(header.value()));
                    }
                    System.out.println(line);
                    count--;
                }
            }
        }
    }

    static String hex(byte[] data) {
        return data == null ? "null" : "x" + HexFormat.of().formatHex(data);
    }
}
