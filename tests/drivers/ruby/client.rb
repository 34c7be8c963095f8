# ruby-pg: https://github.com/ged/ruby-pg
require 'pg'

$stdout.sync = true
CLIENT = ENV.fetch('CLIENT', '0').to_i
THINGS = "things_#{CLIENT}"
NOTES = "notes_#{CLIENT}"

def say(*values) = puts(values.map { |value| value.is_a?(String) ? value.gsub("\n", '\n') : value.inspect }.join(' '))

def failure(error)
  fields = [PG::PG_DIAG_SQLSTATE, PG::PG_DIAG_MESSAGE_PRIMARY, PG::PG_DIAG_MESSAGE_DETAIL, PG::PG_DIAG_STATEMENT_POSITION, PG::PG_DIAG_CONSTRAINT_NAME]
  [error.class.name, *fields.map { |field| error.result&.error_field(field) }]
end

def tried
  say(yield)
rescue PG::Error => e
  say(failure(e))
end

def connected(**options)
  connection = PG.connect(connect_timeout: 60, **options)
  connection.type_map_for_results = PG::BasicTypeMapForResults.new(connection)
  yield connection
ensure
  connection&.close
end

PARTS = {
  login: lambda {
    connected(application_name: "client #{CLIENT}", options: "-c work_mem=#{CLIENT + 1}MB") do |db|
      say(db.exec('SELECT current_user, current_setting($$work_mem$$), current_setting($$application_name$$)').values, db.parameter_status('TimeZone'))
    end
    begin
      PG.connect(password: 'wrong')
    rescue PG::Error => e
      say(e.message[/FATAL:.*/])
    end
  },
  values: lambda {
    connected do |db|
      db.exec("CREATE TABLE #{THINGS} (id bigint PRIMARY KEY, name text, middle int, exact numeric, flag bool, bytes bytea, instant timestamptz, document jsonb, numbers int[])")
      insert = "INSERT INTO #{THINGS} VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
      row = [1, "thing #{CLIENT}", -5, '12345678901234567890.123456789', true, { value: "\x00\xFF".b, format: 1 }, '2024-06-01 12:00+00', "{\"client\": #{CLIENT}}", '{1,NULL,3}']
      say(db.exec_params(insert, row).cmd_tuples, db.exec_params(insert, [2] + [nil] * 8).cmd_status)
      (1..3).each do |id|
        [0, 1].each { |format| say(db.exec_params("SELECT id, name, middle, flag, bytes FROM #{THINGS} WHERE id = $1", [id], format).values) }
      end
    end
  },
  prepared: lambda {
    connected do |db|
      db.prepare('by id', "SELECT name, $2::int FROM #{THINGS} WHERE id = $1")
      db.prepare('sum', "SELECT $1::int + #{CLIENT}")
      20.times { |turn| say(db.exec_prepared('by id', [turn % 3, turn]).values, db.exec_prepared('sum', [turn]).values) }
      say(db.describe_prepared('by id').fields)
      tried { db.prepare('sum', 'SELECT 1') && 'prepared again' }
      db.exec('DEALLOCATE "sum"')
      tried { db.exec_prepared('sum', [1]).values }
    end
  },
  transactions: lambda {
    connected do |db|
      name = -> { db.exec_params("SELECT name FROM #{THINGS} WHERE id = $1", [1]).values }
      rename = ->(to) { db.exec_params("UPDATE #{THINGS} SET name = $1 WHERE id = $2", [to, 1]).cmd_tuples }
      say(db.transaction { rename.call('kept') }, name.call)
      begin
        db.transaction { rename.call('not kept') && raise('out') }
      rescue RuntimeError => e
        say(e.message, name.call)
      end
      db.exec('BEGIN; SAVEPOINT a')
      rename.call('not kept either')
      tried { db.exec_params('SELECT 1 / $1::int', [0]) }
      tried { db.exec('SELECT 1') }
      say(db.transaction_status, db.exec('ROLLBACK TO a').cmd_status, name.call, db.exec('COMMIT').cmd_status, db.transaction_status)
      tried { db.exec_params("INSERT INTO #{THINGS} (id) VALUES ($1)", [1]) }
      tried { db.exec('SELECT nothing') }
      tried { db.exec('SELECT 1; SELECT 1 / 0') }
    end
  },
  pipelines: lambda {
    connected do |db|
      db.enter_pipeline_mode
      10.times { |turn| db.send_query_params('SELECT $1::int + $2::int', [turn, CLIENT]) }
      db.pipeline_sync
      db.send_query_params('SELECT 1 / $1::int', [0])
      db.send_query_params('SELECT 2', [])
      db.pipeline_sync
      seen = []
      syncs = 0
      while syncs < 2
        result = db.get_result
        next seen << nil if result.nil?

        syncs += 1 if result.result_status == PG::PGRES_PIPELINE_SYNC
        seen << [result.res_status(result.result_status), result.ntuples.positive? ? result.getvalue(0, 0) : result.error_field(PG::PG_DIAG_SQLSTATE)]
      end
      say(seen)
      db.exit_pipeline_mode
      say(db.exec_params('SELECT $1::int', [CLIENT]).values)
    end
  },
  copy: lambda {
    connected do |db|
      db.exec("CREATE TABLE #{NOTES} (id int, words text)")
      result = db.copy_data("COPY #{NOTES} FROM STDIN") { 2000.times { |id| db.put_copy_data("#{id}\tclient #{CLIENT}\n") } }
      say(result.cmd_status)
      lines = []
      db.copy_data("COPY (SELECT * FROM #{NOTES} ORDER BY id LIMIT 3) TO STDOUT") { while (line = db.get_copy_data) do lines << line end }
      say(lines)
      tried { db.copy_data("COPY #{NOTES} FROM STDIN") { db.put_copy_data("x\ty\n") } }
      begin
        db.copy_data("COPY #{NOTES} FROM STDIN") { raise 'out of the middle' }
      rescue RuntimeError => e
        say(e.message, db.transaction_status)
      end
      say(db.exec("SELECT count(*) FROM #{NOTES}").values)
    end
  },
  notifications: lambda {
    connected do |listener|
      connected do |sender|
        listener.exec("LISTEN news_#{CLIENT}")
        sender.exec("NOTIFY news_#{CLIENT}, 'one of #{CLIENT}'")
        sender.exec_params('SELECT pg_notify($1, $2)', ["news_#{CLIENT}", 'two'])
        2.times { listener.wait_for_notify(30) { |channel, pid, payload| say(channel, payload, pid == sender.backend_pid) } }
      end
    end
  },
  cancel: lambda {
    connected do |db|
      thread = Thread.new { sleep 0.3; db.cancel }
      tried { db.exec('SELECT pg_sleep(50)') }
      thread.join
      say(db.exec_params('SELECT $1::int', [CLIENT]).values)
    end
  },
  settings: lambda {
    connected do |db|
      show = -> { say(%w[TimeZone work_mem search_path].map { |name| db.exec("SHOW #{name}").getvalue(0, 0) }) }
      show.call
      db.exec("SET work_mem = '#{CLIENT + 1}MB'; SET TimeZone = 'Asia/Tokyo'")
      show.call
      db.exec('RESET ALL')
      show.call
      db.exec('DISCARD ALL')
      # a connection that is made anew
      db.reset
      show.call
    end
  },
  cleanup: lambda {
    connected do |db|
      db.exec("DROP TABLE #{THINGS}")
      db.exec("DROP TABLE #{NOTES}")
    end
  }
}.freeze

say('version ruby-pg', PG::VERSION)
PARTS.each do |name, part|
  say("part #{name}")
  begin
    part.call
  rescue StandardError => e
    say('FAILED', e.message)
    warn(e.full_message)
  end
end
