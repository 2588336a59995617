-- name: set_settings :exec
-- For this transaction: bounds every wait for a lock, and compiles nothing. The planner takes a chunk of users for
-- millions of rows, and would spend a second on compiling what then takes less.
select set_config('lock_timeout', (:lock_milliseconds::bigint)::text, true), set_config('jit', 'off', true);

-- name: lock_users :exec
-- Nobody else sees or writes users until this transaction ends.
lock table users in access exclusive mode;

-- name: has_users :one
-- Whether there is any user.
select exists (select from users) as present;

-- name: is_referred_to :one
-- Whether a table of somebody else's refers to users, which then cannot be truncated.
select exists (
    select from pg_constraint as k
    where k.contype = 'f' and k.confrelid = 'users'::regclass and k.conrelid <> k.confrelid
) as referred_to;

-- name: renew_users :exec
-- @may_fail: tables of others may refer to users, which is_referred_to tells before
-- An empty table begins anew: its file, which goes again with all that was written if this transaction fails,
-- its ids, and what the planner believes of it.
truncate users restart identity;

-- name: seed_users :exec
-- Makes up the users from :first to :last of :total.
--
-- Chance is a hash of the seed, an id and the number of what is decided; p_… is from 0 up to, but not including,
-- 1. All else is integers and plain double precision, with no locale, no time zone and no random(): the same
-- numbers give the same rows on every machine and on PostgreSQL 15 to 18.
--
-- An email's separator, number and domain together tell the id, so no two are equal. Every 1,000th user has the
-- known password; the hashes of the others have its form, and so its cost, but no password was ever behind them.
with languages (language, whole_name, first_names, last_names, cities) as (
    -- The more frequent come first. After a slash: how an email writes it, where that is not just lower case.
    values
    (
        'en', '%1$s %2$s',
        '{Olivia,James,Mary,Noah,Emma,Jack,Charlotte,Liam,Amelia,Thomas,Sophie,Henry,Grace,Samuel,Lucy,Daniel,
            Hannah,Adam,Ruby,Ethan,Alice,Owen,Zoe,Ada}'::text[],
        '{Smith,Jones,Williams,Taylor,Brown,Davies,Johnson,Wilson,Evans,Thomas,Walker,White,Roberts,Green,Hall,
            Wood,Clarke,Hughes,Turner,Cooper,Morgan,Bell,Fox,Lovelace}'::text[],
        '{London,New York,Toronto,Sydney,Chicago,Manchester,Dublin,Auckland}'::text[]
    ), (
        'es', '%1$s %2$s',
        '{María/maria,José/jose,Lucía/lucia,Antonio,Carmen,Javier,Sofía/sofia,Manuel,Valentina,Carlos,Martina,
            Diego,Isabel,Andrés/andres,Elena,Álvaro/alvaro,Noelia,Íñigo/inigo}',
        '{García/garcia,Rodríguez/rodriguez,Martínez/martinez,Hernández/hernandez,López/lopez,Torres,Pérez/perez,
            Sánchez/sanchez,Flores,Gómez/gomez,Díaz/diaz,Cruz,Muñoz/munoz,Núñez/nunez,Vázquez/vazquez}',
        '{Madrid,Ciudad de México,Barcelona,Bogotá,Buenos Aires,Lima,Sevilla,Montevideo}'
    ), (
        'pt', '%1$s %2$s',
        '{Maria,João/joao,Ana,Pedro,Beatriz,Tiago,Mariana,Rafael,Inês/ines,Gustavo,Letícia/leticia,Bruno,Camila,
            Gonçalo/goncalo,Larissa,Caio}',
        '{Silva,Santos,Oliveira,Souza,Pereira,Costa,Ferreira,Almeida,Carvalho,Gomes,Ribeiro,Araújo/araujo,
            Conceição/conceicao,Simões/simoes,Brandão/brandao}',
        '{São Paulo,Lisboa,Rio de Janeiro,Porto,Recife,Coimbra}'
    ), (
        'fr', '%1$s %2$s',
        '{Marie,Louis,Jeanne,Gabriel,Chloé/chloe,Léo/leo,Camille,Raphaël/raphael,Manon,Hugo,Inès/ines,Jules,
            Anaïs/anais,Théo/theo,Étienne/etienne}',
        '{Martin,Bernard,Dubois,Petit,Durand,Leroy,Moreau,Laurent,Lefèvre/lefevre,Roux,Fournier,Girard,Mercier,
            Lambert,Rousseau,Gauthier}',
        '{Paris,Lyon,Montréal,Marseille,Bruxelles,Lille,Genève}'
    ), (
        'de', '%1$s %2$s',
        '{Anna,Lukas,Marie,Leon,Lena,Finn,Johanna,Jonas,Emilia,Felix,Greta,Jürgen/juergen,Ulrike,Björn/bjoern,
            Käthe/kaethe,Günther/guenther}',
        '{Müller/mueller,Schmidt,Schneider,Fischer,Weber,Meyer,Wagner,Becker,Schulz,Hoffmann,Schäfer/schaefer,
            Koch,Bauer,Köhler/koehler,Groß/gross,Weiß/weiss}',
        '{Berlin,Wien,Hamburg,München,Zürich,Köln,Leipzig}'
    ), (
        'it', '%1$s %2$s',
        '{Giulia,Francesco,Sofia,Leonardo,Aurora,Alessandro,Chiara,Lorenzo,Alice,Matteo,Beatrice,Niccolò/niccolo}',
        '{Rossi,Russo,Ferrari,Esposito,Bianchi,Romano,Colombo,Ricci,Marino,Greco,De Luca/deluca}',
        '{Roma,Milano,Napoli,Torino,Bologna,Palermo}'
    ), (
        'pl', '%1$s %2$s',
        '{Anna,Piotr,Katarzyna,Krzysztof,Małgorzata/malgorzata,Łukasz/lukasz,Agnieszka,Michał/michal,Zofia,Jakub,
            Bożena/bozena}',
        '{Nowak,Mazur,Wójcik/wojcik,Krawczyk,Kaczmarek,Zając/zajac,Król/krol,Wróbel/wrobel,Pawlak,Dudek,
            Stępień/stepien,Sikora}',
        '{Warszawa,Kraków,Wrocław,Łódź,Gdańsk,Poznań}'
    ), (
        'nl', '%1$s %2$s',
        '{Emma,Daan,Sanne,Bram,Fleur,Thijs,Lotte,Sem,Femke,Jasper,Noor,Ruben}',
        '{de Jong/dejong,Jansen,de Vries/devries,van den Berg/vandenberg,Bakker,van Dijk/vandijk,Visser,Smit,
            Meijer,de Boer/deboer,Mulder,Bos}',
        '{Amsterdam,Rotterdam,Antwerpen,Utrecht,Den Haag,Gent}'
    ), (
        'sv', '%1$s %2$s',
        '{Astrid,Erik,Elsa,Lars,Maja,Nils,Linnéa/linnea,Björn/bjorn,Freja,Göran/goran,Åsa/asa,Östen/osten}',
        '{Andersson,Johansson,Karlsson,Nilsson,Eriksson,Larsson,Lindström/lindstrom,Bergström/bergstrom,
            Sjöberg/sjoberg,Nyström/nystrom,Åkesson/akesson,Öberg/oberg}',
        '{Stockholm,Göteborg,Malmö,Uppsala,Umeå}'
    ), (
        'tr', '%1$s %2$s',
        '{Zeynep,Mehmet,Elif,Mustafa,Ayşe/ayse,Emre,Defne,Yiğit/yigit,Büşra/busra,İbrahim/ibrahim,Gül/gul,
            Çağlar/caglar}',
        '{Yılmaz/yilmaz,Kaya,Demir,Şahin/sahin,Çelik/celik,Yıldız/yildiz,Öztürk/ozturk,Aydın/aydin,Arslan,
            Özdemir/ozdemir,Doğan/dogan,Kılıç/kilic}',
        '{İstanbul,Ankara,İzmir,Bursa,Antalya}'
    ), (
        'hi', '%1$s %2$s',
        '{Aarav,Priya,Arjun,Ananya,Rahul,Kavya,Vikram,Meera,Rohan,Sneha,Aditya,Ishita}',
        '{Sharma,Patel,Singh,Kumar,Gupta,Reddy,Iyer,Nair,Mehta,Joshi,Das,Rao}',
        '{Mumbai,Delhi,Bengaluru,Chennai,Kolkata,Pune}'
    ), (
        'uk', '%1$s %2$s',
        '{Олена/olena,Андрій/andrii,Марія/mariia,Іван/ivan,Оксана/oksana,Тарас/taras,Юлія/yuliia,Богдан/bohdan,
            Наталія/nataliia,Сергій/serhii,Ірина/iryna,Максим/maksym}',
        '{Мельник/melnyk,Шевченко/shevchenko,Бондаренко/bondarenko,Коваленко/kovalenko,Ткаченко/tkachenko,
            Лисенко/lysenko,Марченко/marchenko,Савченко/savchenko,Руденко/rudenko,Кравчук/kravchuk,Поліщук/polishchuk}',
        '{Київ,Харків,Львів,Одеса}'
    ), (
        'zh', '%2$s%1$s',
        '{伟/wei,芳/fang,娜/na,敏/min,静/jing,磊/lei,洋/yang,艳/yan,勇/yong,杰/jie,子涵/zihan,浩然/haoran}',
        '{王/wang,李/li,张/zhang,刘/liu,陈/chen,杨/yang,黄/huang,赵/zhao,吴/wu,周/zhou}',
        '{上海,北京,广州,深圳,成都,武汉}'
    ), (
        'ja', '%2$s %1$s',
        '{葵/aoi,陽翔/haruto,結衣/yui,蓮/ren,美咲/misaki,大翔/hiroto,さくら/sakura,健/ken,花子/hanako,直樹/naoki}',
        '{佐藤/sato,鈴木/suzuki,高橋/takahashi,田中/tanaka,伊藤/ito,渡辺/watanabe,山本/yamamoto,中村/nakamura}',
        '{東京,大阪,横浜,札幌,福岡,京都}'
    ), (
        'ko', '%2$s%1$s',
        '{서연/seoyeon,민준/minjun,지우/jiwoo,도윤/doyun,하은/haeun,지훈/jihoon,수아/sua,현우/hyunwoo,
            서준/seojun,예린/yerin,은우/eunwoo,민서/minseo}',
        '{김/kim,이/lee,박/park,최/choi,정/jung,강/kang,조/cho,윤/yoon,장/jang,임/lim,한/han,오/oh}',
        '{서울,부산,인천,대구}'
    )
), weighed as (
    -- Every hour of 2023, which begins on a Sunday, to 2025, and how many sign up in it compared with others:
    -- ever more, fewer at weekends and at night, on some days more than on others.
    select
        hour,
        (10 + (hour / 24) * (hour / 24) / 16000)
            * ('{6,10,11,11,10,9,6}'::int[])[1 + hour / 24 % 7]
            * ('{3,2,1,1,1,2,3,5,8,10,11,11,10,10,11,11,10,9,9,10,10,8,6,4}'::int[])[1 + hour % 24]
            * (8 + (hashint8extended(hour / 24, :seed) & 3)::int) as weight
    from generate_series(0, 1096 * 24 - 1) as hour
), hours as (
    select
        hour,
        :total * (sum(weight) over (order by hour) - weight) / sum(weight) over () + 1 as first_id,
        :total * sum(weight) over (order by hour) / sum(weight) over () as last_id
    from weighed
), rolled as (
    -- Each id with the time between two sign-ups of its hour, in microseconds, and with its chances.
    select
        id,
        hour,
        first_id,
        3600000000 / (last_id - first_id + 1) as gap,
        (hashint8extended(id * 32 + 1, :seed) & 4294967295) / 4294967296::float8 as p_moment,
        (hashint8extended(id * 32 + 2, :seed) & 4294967295) / 4294967296::float8 as p_language,
        (hashint8extended(id * 32 + 3, :seed) & 4294967295) / 4294967296::float8 as p_first_name,
        (hashint8extended(id * 32 + 4, :seed) & 4294967295) / 4294967296::float8 as p_last_name,
        (hashint8extended(id * 32 + 5, :seed) & 4294967295) / 4294967296::float8 as p_active,
        (hashint8extended(id * 32 + 6, :seed) & 4294967295) / 4294967296::float8 as p_profile,
        (hashint8extended(id * 32 + 7, :seed) & 4294967295) / 4294967296::float8 as p_city,
        (hashint8extended(id * 32 + 8, :seed) & 4294967295) / 4294967296::float8 as p_newsletter,
        (hashint8extended(id * 32 + 9, :seed) & 4294967295) / 4294967296::float8 as p_interest,
        (hashint8extended(id * 32 + 10, :seed) & 4294967295) / 4294967296::float8 as p_interests,
        (hashint8extended(id * 32 + 11, :seed) & 4294967295) / 4294967296::float8 as p_settings,
        (hashint8extended(id * 32 + 12, :seed) & 4294967295) / 4294967296::float8 as p_referred,
        (hashint8extended(id * 32 + 13, :seed) & 4294967295) / 4294967296::float8 as p_referrer,
        (hashint8extended(id * 32 + 14, :seed) & 4294967295) / 4294967296::float8 as p_changes,
        (hashint8extended(id * 32 + 15, :seed) & 4294967295) / 4294967296::float8 as p_updated,
        (hashint8extended(id / 64 * 32 + 16, :seed) & 4294967295) / 4294967296::float8 as p_chain
    from hours
    cross join generate_series(greatest(first_id, :first), least(last_id, :last)) as id
    where last_id >= :first and first_id <= :last
    offset 0 -- so that each chance is computed once a row, and not wherever it is named
)
insert into users
    (id, email, hashed_password, is_active, display_name, profile, referred_by, version, created_at, updated_at)
overriding system value
select
    id,
    lower(
        (split_part(first_name, '/', -1) || split_part(provider, '@', 1) || split_part(last_name, '/', -1))
        collate "C"
    ) || coalesce(nullif(id / 20, 0)::text, '') || '@' || split_part(provider, '@', 2),
    case id % 1000
        when 1 then :known_hash
        else left(:known_hash, -43) || left(encode(sha256(int8send(hashint8extended(id, :seed))), 'base64'), 43)
    end,
    p_active >= 0.05,
    case id % 20
        when 2 then null
        else format(whole_name, split_part(first_name, '/', 1), split_part(last_name, '/', 1))
    end,
    case
        when p_profile < 0.1 then '{}'
        when p_profile < 0.8 then profile
        else profile || jsonb_build_object('settings', jsonb_build_object(
            'theme', case when p_settings < 0.6 then 'dark' else 'light' end,
            'notifications', jsonb_build_object('email', p_newsletter < 0.8, 'push', p_settings between 0.3 and 0.8)
        ))
    end,
    -- Some came in a chain of friends, some by one who had come not long before, some by one of the oldest.
    case
        when id = 1 then null
        when p_chain < 0.02 and id % 64 < 3200 * p_chain then id - 1
        when p_referred < 0.15 then id - 1 - floor(least(id - 1, 50) * p_referrer)::bigint
        when p_referred < 0.3 then 1 + floor((id - 1) * p_referrer * p_referrer * p_referrer)::bigint
    end,
    1 + changes,
    '2023-01-01 00:00Z'::timestamptz + signed_up * interval '1 microsecond',
    '2023-01-01 00:00Z'::timestamptz + interval '1 microsecond' * case
        when changes = 0 then signed_up
        else signed_up + floor((1096 * 86400000000 - signed_up) * p_updated)::bigint
    end
from rolled
join languages
    on language = ('{en,en,en,en,en,es,es,es,pt,pt,fr,fr,de,de,it,pl,nl,sv,tr,hi,hi,uk,zh,ja,ko}'::text[])[
        1 + floor(25 * p_language)::int
    ]
cross join lateral (
    select
        hour * 3600000000 + gap * (id - first_id) + floor(gap * p_moment)::bigint as signed_up,
        greatest(0, 1 + floor(20 * (p_changes - 0.7)))::bigint as changes,
        first_names[1 + floor(cardinality(first_names) * p_first_name * (1 + p_first_name) / 2)::int] as first_name,
        last_names[1 + floor(cardinality(last_names) * p_last_name * (1 + p_last_name) / 2)::int] as last_name,
        (
            '{.@example.com,_@example.com,-@example.com,@example.com,.@example.org,_@example.org,@example.org,
                .@example.net,@example.net,.@mail.example.com,_@mail.example.com,@mail.example.com,
                .@post.example.org,@post.example.org,.@web.example.net,-@web.example.net,
                .@students.example.org,.@work.example.com,@inbox.example.net,.@family.example.org}'::text[]
        )[1 + (id * 7 + (hashint8extended(id / 20, :seed) & 4294967295)) % 20] as provider,
        jsonb_build_object(
            'city', cities[1 + floor(cardinality(cities) * p_city * (1 + p_city) / 2)::int],
            'language', language,
            'newsletter', p_newsletter < 0.4,
            'interests', to_jsonb((
                '{running,cycling,swimming,hiking,climbing,travel,photography,film,theatre,music,piano,guitar,
                    dancing,painting,museums,history,books,poetry,languages,chess,board games,video games,
                    programming,electronics,astronomy,science,gardening,birds,cooking,baking,coffee,wine}'::text[]
            )[1 + floor(28 * p_interest)::int : floor(28 * p_interest)::int + floor(6 * p_interests)::int])
        ) as profile
) as made_up;

-- name: set_last_id :exec
-- The next user gets the id after this one.
select setval('users_id_seq', :id);

-- name: analyze_users :exec
-- Tells the planner what is in the table, which it takes for empty until then.
analyze users;
