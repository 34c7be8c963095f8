# DBD::Pg, which prepares on the server by default: https://metacpan.org/pod/DBD::Pg
use strict;
use warnings;
use DBI;
use DBD::Pg qw(:pg_types :async);

$| = 1;
my $client  = $ENV{CLIENT} // 0;
my $sharded = ($ENV{TARGET} // '') eq 'sharded';
my ($things, $notes) = ("things_$client", "notes_$client");

sub shown { my $value = shift; return !defined $value ? 'undef' : ref $value eq 'ARRAY' ? '[' . join(', ', map { shown($_) } @$value) . ']' : "$value" }
sub say_ { print join(' ', map { (my $text = shown($_)) =~ s/\n/\\n/g; $text } @_), "\n" }
sub connected { return DBI->connect('dbi:Pg:', undef, undef, { RaiseError => 1, PrintError => 0, AutoCommit => 1, pg_server_prepare => 1, @_ }) }
sub tried {
    my ($handle, $body) = @_;
    eval { say_($body->()); 1 } or say_($handle->state, $handle->errstr, $handle->pg_error_field('table'), $handle->pg_error_field('constraint'));
}

my @parts = (
    login => sub {
        local $ENV{PGAPPNAME} = "client $client";
        local $ENV{PGOPTIONS} = '-c work_mem=' . ($client + 1) . 'MB';
        my $db = connected();
        say_($db->selectall_arrayref('SELECT current_user, current_setting(?), current_setting(?)', undef, 'application_name', 'work_mem'));
        say_($db->{pg_server_version}, $db->ping);
        eval { DBI->connect('dbi:Pg:', 'app', 'wrong', { RaiseError => 1, PrintError => 0 }) } or say_($DBI::errstr =~ s/.*FATAL://sr);
    },
    values => sub {
        my $db = connected();
        $db->do("CREATE TABLE $things (id bigint PRIMARY KEY, name text, middle int, exact numeric, flag bool, bytes bytea, instant timestamptz, document jsonb, numbers int[])");
        my $insert = $db->prepare("INSERT INTO $things VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)");
        $insert->bind_param(6, undef, { pg_type => PG_BYTEA });
        say_($insert->execute(1, "thing $client", -5, '12345678901234567890.123456789', 't', "\x00\xff", '2024-06-01 12:00+00', "{\"client\": $client}", [1, undef, 3]));
        say_($insert->execute(2, (undef) x 8));
        say_($db->selectall_arrayref("SELECT * FROM $things WHERE id = ?", undef, $_)) for 1 .. 3;
    },
    prepared => sub {
        my $db = connected();
        my $first  = $db->prepare("SELECT name, ?::int FROM $things WHERE id = ?");
        my $second = $db->prepare("SELECT ?::int + $client");
        for my $turn (0 .. 20) {
            $first->execute($turn, $turn % 3);
            $second->execute($turn);
            say_($first->fetchall_arrayref, $second->fetchall_arrayref);
        }
        undef $first;
        $second->execute(1);
        say_($second->fetchall_arrayref, $second->{NAME}, $second->{pg_type});
    },
    transactions => sub {
        my $db = connected();
        my $name   = sub { return $db->selectall_arrayref("SELECT name FROM $things WHERE id = ?", undef, 1) };
        my $rename = sub { return $db->do("UPDATE $things SET name = ? WHERE id = ?", undef, shift, 1) };
        $db->begin_work; say_($rename->('kept')); $db->commit;
        $db->begin_work; $rename->('not kept'); $db->rollback;
        say_($name->());
        $db->begin_work;
        $db->pg_savepoint('a');
        $rename->('not kept either');
        tried($db, sub { $db->selectall_arrayref('SELECT 1 / ?::int', undef, 0) });
        tried($db, sub { $db->selectall_arrayref('SELECT 1') });
        $db->pg_rollback_to('a');
        say_($name->());
        $db->commit;
        tried($db, sub { $db->do("INSERT INTO $things (id) VALUES (?)", undef, 1) });
        tried($db, sub { $db->do('SELECT nothing') });
        say_($name->());
    },
    copy => sub {
        my $db = connected();
        $db->do("CREATE TABLE $notes (id int, words text)");
        $db->do("COPY $notes FROM STDIN");
        $db->pg_putcopydata("$_\tclient $client\n") for 0 .. 1999;
        say_($db->pg_putcopyend);
        $db->do("COPY (SELECT * FROM $notes ORDER BY id LIMIT 2) TO STDOUT");
        my $line = '';
        say_($line) while $db->pg_getcopydata($line) >= 0;
        $db->do("COPY $notes FROM STDIN");
        $db->pg_putcopydata("x\ty\n");
        tried($db, sub { $db->pg_putcopyend });
        say_($db->selectall_arrayref("SELECT count(*) FROM $notes"));
    },
    notifications => sub {
        my ($listener, $sender) = (connected(), connected());
        $listener->do("LISTEN news_$client");
        $sender->do("NOTIFY news_$client, 'one of $client'");
        $sender->do('SELECT pg_notify(?, ?)', undef, "news_$client", 'two');
        my @heard;
        for (1 .. 300) {
            while (my $notify = $listener->pg_notifies) { push @heard, [$notify->[0], $notify->[2], $notify->[1] == $sender->{pg_pid} ? 'its' : 'not its'] }
            last if @heard == 2;
            select undef, undef, undef, 0.1;
        }
        say_(@heard);
    },
    asynchronous => sub {
        my $db = connected();
        $db->do('SELECT pg_sleep(0.2)', { pg_async => PG_ASYNC });
        say_($db->pg_result);
        $db->do('SELECT pg_sleep(50)', { pg_async => PG_ASYNC });
        # one that comes before its query finds nothing to cancel, on Postgres too
        select undef, undef, undef, 0.3;
        say_($db->pg_cancel ? 'cancelled' : 'not cancelled');
        say_($db->selectall_arrayref('SELECT ?::int', undef, $client));
    },
    settings => sub {
        my $db = connected();
        my $show = sub { say_(map { $db->selectrow_array("SHOW $_") } qw(TimeZone work_mem search_path)) };
        $show->();
        $db->do('SET work_mem = ' . "'" . ($client + 1) . "MB'");
        $db->do("SET TimeZone = 'Asia/Tokyo'");
        $show->();
        $db->do('DISCARD ALL');
        $show->();
    },
    catalog => sub {
        my $db = connected();
        say_($db->primary_key(undef, 'public', $things), [map { [@$_[3, 5]] } @{ $db->column_info(undef, 'public', $things, '%')->fetchall_arrayref }]);
    },
    cleanup => sub {
        my $db = connected();
        $db->do("DROP TABLE $things");
        $db->do("DROP TABLE $notes");
    },
);

say_('version DBD::Pg', $DBD::Pg::VERSION);
while (my ($name, $part) = splice @parts, 0, 2) {
    say_("part $name");
    eval { $part->(); 1 } or do { (my $error = $@) =~ s/ at \S+ line \d+.*//s; say_('FAILED', $error); warn $@ };
}
